//! `regrow cluster cert`: certificates of nodes, by an authority that exists for one cluster.
//! Done in this process; no node is asked.

use std::path::PathBuf;

use clap::Args;
use regrow_cluster::certificates::{self, AUTHORITY_KEY, CertificateError, Written};
use regrow_cluster::member::NodeName;
use regrow_runtime::causes::chain;

use crate::cli::Failure;
use crate::cli::output::{note, print};

/// Flags of `regrow cluster cert`.
#[derive(Args, Debug)]
pub(super) struct CertArgs {
    /// Names of the nodes, as they call themselves (`regrow node --name`)
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
    /// Where the authority and all certificates lie; keep it off the nodes
    #[arg(long, value_name = "DIR", default_value = "certificates")]
    dir: PathBuf,
}

/// Runs the verb.
pub(super) fn run(args: &CertArgs, json: bool) -> Result<(), Failure> {
    let nodes: Vec<NodeName> = args.nodes.iter().map(|name| name.as_str().into()).collect();
    let written = certificates::write(&args.dir, &nodes).map_err(|error| match &error {
        CertificateError::Name(_) | CertificateError::Exists(_) => Failure::Usage(chain(&error)),
        CertificateError::File { .. }
        | CertificateError::HalfAuthority(_)
        | CertificateError::Unmade(_) => Failure::Outcome(chain(&error)),
    })?;
    let text = match json {
        // Plain data; it cannot fail to be JSON.
        true => serde_json::to_string(&written).unwrap_or_default(),
        false => summary(&written),
    };
    print(&text)?;
    if !json && written.is_new_authority {
        note(&format!(
            "whoever has {AUTHORITY_KEY} can make members of this cluster; copy to each node only \
             its own two files and the authority's certificate"
        ));
    }
    Ok(())
}

fn summary(written: &Written) -> String {
    let made = match written.is_new_authority {
        true => "made",
        false => "used",
    };
    let mut lines = vec![format!(
        "authority {} ({made})",
        written.authority.display()
    )];
    lines.extend(written.nodes.iter().map(|node| {
        format!(
            "{}: {} {}",
            node.name,
            node.certificate.display(),
            node.key.display()
        )
    }));
    lines.join("\n")
}
