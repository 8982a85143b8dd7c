//! What the node offers to agents that the cluster places: labels, taints, capacity.

use std::collections::{BTreeMap, BTreeSet};

use regrow_cluster::report::Offer;
use regrow_runtime::agent_spec::PolicyName;

use super::reader::Reader;
use super::size;

/// Longest label, value or taint.
const BYTES_MAX: usize = 128;
/// Labels, taints, or capabilities of one node.
const COUNT_MAX: usize = 32;

/// `node.labels`, `node.taints`, `node.agents_max`, `node.capabilities`.
pub(super) fn offer(reader: &mut Reader) -> Offer {
    let labels = words(
        reader,
        "node.labels",
        "LABEL=VALUE, separated by commas, such as \"zone=a,disk=ssd\"",
        |word| label(word).is_some(),
    );
    let pairs: Vec<(String, String)> = labels.iter().filter_map(|one| label(one)).collect();
    let by_name: BTreeMap<String, String> = pairs.iter().cloned().collect();
    if by_name.len() < pairs.len() {
        let what = "names a label twice; a node has one value of each".to_owned();
        reader.object("node.labels", what);
    }
    let taints = words(
        reader,
        "node.taints",
        "words separated by commas, such as \"gpu=reserved,spot\"",
        fits,
    );
    let capabilities = words(
        reader,
        "node.capabilities",
        "classes of work separated by commas, such as \"cpu,io\"",
        fits,
    );
    let agents_max = reader.number("node.agents_max", 1_000, 0..=100_000);
    Offer {
        labels: by_name,
        taints: taints.into_iter().collect::<BTreeSet<_>>(),
        agents_max: Some(size(agents_max)),
        capabilities: capabilities.into_iter().collect(),
    }
}

/// `cluster.policy`: how nodes are chosen for agents that do not say it.
pub(super) fn policy(reader: &mut Reader) -> PolicyName {
    let name =
        |text: &str| [PolicyName::Balanced, PolicyName::Scr].map(|it| (it, it.as_str() == text));
    let known = |text: &str| name(text).iter().any(|(_, is)| *is);
    let text = reader.text("cluster.policy", "balanced", "`balanced` or `scr`", known);
    let found = name(&text).into_iter().find(|(_, is)| *is);
    found.map(|(policy, _)| policy).unwrap_or_default()
}

fn fits(word: &str) -> bool {
    (1..=BYTES_MAX).contains(&word.len())
}

fn label(word: &str) -> Option<(String, String)> {
    let (label, value) = word.split_once('=')?;
    (fits(label) && fits(value)).then(|| (label.to_owned(), value.to_owned()))
}

/// Words separated by commas.
fn words(
    reader: &mut Reader,
    key: &str,
    allowed: &str,
    check: impl Fn(&str) -> bool,
) -> Vec<String> {
    let split = |text: &str| -> Vec<String> {
        let words = text
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    let text = reader.text(key, "", allowed, |text| {
        let words = split(text);
        words.len() <= COUNT_MAX && words.iter().all(|word| check(word))
    });
    split(&text)
}
