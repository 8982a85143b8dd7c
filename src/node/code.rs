//! Versions of agents' code, vetted by the engine that would run them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt as _};
use regrow_modules::artefacts::{self, Artefacts};
use regrow_modules::capability::{Capability, Grants};
use regrow_modules::compiling::{CompileError, Compiler, CompilerConfig};
use regrow_modules::expression::{Columns, Expression};
use regrow_modules::host::{
    CallError, Host, HostLimits, Level, Metering, PrepareError, Surroundings,
};
use regrow_modules::inspection::SizeLimits;
use regrow_modules::policy::{self, Manifest};
use regrow_modules::workshop::{Author, Workshop, WorkshopError};
use regrow_runtime::access::place::Place;
use regrow_runtime::clock::Clock;
use regrow_runtime::code::Code;
use regrow_runtime::code::keeper::CodeStore;
use regrow_runtime::code::ledger::Retention;
use regrow_runtime::code::source::Source;
use regrow_runtime::code::vetting::{ModuleFacts, Rejection, Vetting};
use tokio::sync::OnceCell;
use tracing::warn;

/// The folder of machine code in the data directory.
const ARTEFACTS: &str = "artefacts";
/// Instances at the same time.
const INSTANCES_MAX: u32 = 256;
/// Ticks of a millisecond that a module may take to say what it is.
const DESCRIBE_TICKS: u64 = 50;
/// Characters of what a module says of itself.
const SAID_MAX: usize = 256;
/// Kinds and layouts that a module may name.
const NAMED_MAX: usize = 64;

/// The verb of this program that compiles.
const VERB: &str = "compile-module";

/// What the store holds, and the engine lets pass.
pub(super) fn code(place: Place, clock: Clock, data_dir: &Path) -> Code {
    let store = CodeStore::new(place, clock, Retention::default());
    let vetting = ByEngine {
        artefacts: data_dir.join(ARTEFACTS),
        workshop: OnceCell::new(),
    };
    Code::new(store, Arc::new(vetting))
}

/// Compiles code and lets it describe itself. The engine is made when the first code comes: it
/// reserves address space that a node without modules has no use for.
struct ByEngine {
    artefacts: PathBuf,
    workshop: OnceCell<Workshop>,
}

impl ByEngine {
    async fn workshop(&self) -> Result<&Workshop, Rejection> {
        let made = self.workshop.get_or_try_init(|| async {
            let folder = self.artefacts.clone();
            let made = tokio::task::spawn_blocking(move || workshop(folder)).await;
            match made {
                Ok(made) => made,
                Err(error) => Err(error.to_string()),
            }
        });
        made.await.map_err(Rejection::Unavailable)
    }
}

fn workshop(folder: PathBuf) -> Result<Workshop, String> {
    let limits = HostLimits {
        instances_max: INSTANCES_MAX,
        ..HostLimits::default()
    };
    let host = Host::new(limits, Metering::Time).map_err(|error| error.to_string())?;
    // The program as it runs, also when its file was replaced meanwhile.
    let program = match cfg!(target_os = "linux") {
        true => PathBuf::from("/proc/self/exe"),
        false => std::env::current_exe().map_err(|error| error.to_string())?,
    };
    let compiler = Compiler::new(CompilerConfig::new(program, vec![VERB.into()]));
    let kept = Artefacts::open(folder, artefacts::BYTES_MAX);
    let kept = kept.inspect_err(|reason| warn!(%reason, "modules are compiled each time anew"));
    Ok(Workshop::new(host, compiler, kept.ok()))
}

impl Vetting for ByEngine {
    fn capabilities(&self) -> &[&'static str] {
        const NAMES: [&str; 4] = ["log", "metrics", "clock", "rand"];
        &NAMES
    }

    fn vet<'a>(
        &'a self,
        agent: &'a str,
        version: &'a str,
        source: &'a Source,
    ) -> BoxFuture<'a, Result<ModuleFacts, Rejection>> {
        async move {
            let (module, author) = match source {
                Source::Expression { columns, text } => {
                    (component(agent, version, columns, text)?, Author::Ourselves)
                }
                Source::Wasm { .. } => {
                    let content = source.content().map_err(|error| refused("parse", error))?;
                    (content, Author::Somebody)
                }
            };
            self.looked_at(module.into(), author).await
        }
        .boxed()
    }
}

fn refused(step: &'static str, why: impl ToString) -> Rejection {
    Rejection::Refused {
        step,
        why: why.to_string(),
    }
}

/// What is wrong with the module, or with this node.
fn rejection(error: WorkshopError) -> Rejection {
    match error {
        WorkshopError::Prepare(error @ PrepareError::Compile(_)) => refused("compile", error),
        WorkshopError::Prepare(error) => refused("inspect", error),
        WorkshopError::Compile(
            error @ (CompileError::Refused(_)
            | CompileError::TooLong(_)
            | CompileError::Died { .. }),
        ) => refused("compile", error),
        WorkshopError::Compile(
            error @ (CompileError::Process { .. } | CompileError::Nonsense(_)),
        ) => Rejection::Unavailable(error.to_string()),
        WorkshopError::GivenUp(why) => Rejection::Unavailable(why),
    }
}

/// The component around an expression.
fn component(
    agent: &str,
    version: &str,
    columns: &[String],
    text: &str,
) -> Result<Vec<u8>, Rejection> {
    let columns = Columns::new(columns.iter().map(String::as_str));
    let columns = columns.map_err(|error| refused("parse", error))?;
    let expression = Expression::parse(text, &columns).map_err(|error| refused("parse", error))?;
    let manifest = Manifest {
        name: agent.to_owned(),
        version: version.to_owned(),
        kinds: Vec::new(),
    };
    policy::component(&expression, &manifest).map_err(|error| refused("compile", error))
}

impl ByEngine {
    async fn looked_at(&self, module: Arc<[u8]>, author: Author) -> Result<ModuleFacts, Rejection> {
        let workshop = self.workshop().await?;
        // Whether it may have what it wants is asked when it is promoted.
        let any: Grants = Capability::ALL.into_iter().collect();
        let sizes = SizeLimits::UNTRUSTED;
        let prepared = workshop
            .prepare(Arc::clone(&module), author, sizes, any)
            .await;
        let (prepared, _) = prepared.map_err(rejection)?;
        let described = |error: CallError| refused("describe", error);
        let instance = prepared.instance(DESCRIBE_TICKS, Arc::new(Nothing)).await;
        let mut instance = instance.map_err(described)?;
        let manifest = instance.describe().await.map_err(described)?;
        let said = manifest
            .kinds
            .iter()
            .chain([&manifest.name, &manifest.version]);
        if said
            .map(|text| text.chars().count())
            .any(|length| SAID_MAX < length)
        {
            return Err(refused(
                "describe",
                "it says a name of more than 256 characters",
            ));
        }
        if NAMED_MAX < manifest.kinds.len().max(manifest.accepts_schemas.len()) {
            return Err(refused(
                "describe",
                "it names more than 64 kinds or layouts of state",
            ));
        }
        let inspection = prepared.inspection();
        let wants = inspection.wants.beyond(Grants::NONE);
        Ok(ModuleFacts {
            hash: blake3::hash(&module).to_hex().to_string(),
            bytes: module.len() as u64,
            functions: u64::from(inspection.functions),
            wants: wants.iter().map(|it| it.name().to_owned()).collect(),
            scores: inspection.scores,
            name: manifest.name,
            says_version: manifest.version,
            state_schema: u64::from(manifest.state_schema),
            accepts_schemas: manifest
                .accepts_schemas
                .into_iter()
                .map(u64::from)
                .collect(),
            kinds: manifest.kinds,
        })
    }
}

/// Surroundings that hear nothing and tell nothing: a module describes itself with everything
/// denied.
struct Nothing;

impl Surroundings for Nothing {
    fn log_enabled(&self, _: Level) -> bool {
        false
    }

    fn log(&self, _: Level, _: &str, _: &[(String, String)]) {}
    fn count(&self, _: &str, _: u64) {}
    fn gauge(&self, _: &str, _: f64) {}
    fn observe(&self, _: &str, _: f64) {}

    fn now(&self) -> u64 {
        0
    }

    fn monotonic(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capabilities_that_can_be_granted_are_those_that_modules_can_import() {
        let vetting = ByEngine {
            artefacts: PathBuf::new(),
            workshop: OnceCell::new(),
        };
        let known: Vec<&str> = Capability::ALL.iter().map(|it| it.name()).collect();
        assert_eq!(vetting.capabilities(), known);
    }
}
