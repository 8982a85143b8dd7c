//! From bytes to what can be started: inspected, compiled where it is safe, kept for next time.

use std::fmt;
use std::sync::Arc;

use tracing::warn;

use crate::artefacts::{ArtefactId, Artefacts};
use crate::capability::{Capability, Grants};
use crate::compiling::{CompileError, Compiler};
use crate::host::{Genuine, Host, PrepareError, Prepared, shell_component};
use crate::inspection::SizeLimits;

/// Who wrote a module's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// This crate, around an expression: of a shape and size that no source changes. Compiled in
    /// this process, and not kept: that takes longer than making it.
    Ourselves,
    /// Anybody. Compiled in a process of its own.
    Somebody,
}

/// Where machine code came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Compiled in this process.
    Here,
    /// Compiled in a process of its own.
    Apart,
    /// Kept from an earlier time.
    Kept,
}

/// Why a module cannot be started. Nothing of it has run.
#[derive(Debug, thiserror::Error)]
pub enum WorkshopError {
    /// The module, or what it wants.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Compiling it.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// A bug in this crate, or a runtime that is ending.
    #[error("preparing it was given up: {0}")]
    GivenUp(String),
}

/// Makes modules ready for one host. Cheap to clone.
#[derive(Clone)]
pub struct Workshop {
    host: Host,
    compiler: Compiler,
    artefacts: Option<Artefacts>,
}

impl fmt::Debug for Workshop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workshop")
            .field("host", &self.host)
            .field("artefacts", &self.artefacts)
            .finish_non_exhaustive()
    }
}

impl Workshop {
    /// Without `artefacts`, everything is compiled each time.
    pub fn new(host: Host, compiler: Compiler, artefacts: Option<Artefacts>) -> Self {
        Self {
            host,
            compiler,
            artefacts,
        }
    }

    /// The host that it works for.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Makes a module ready to start instances of, and says how.
    ///
    /// Dropped before it ended, it stops compiling.
    ///
    /// # Errors
    ///
    /// [`WorkshopError`]
    pub async fn prepare(
        &self,
        module: Arc<[u8]>,
        author: Author,
        sizes: SizeLimits,
        grants: Grants,
    ) -> Result<(Prepared, Way), WorkshopError> {
        if author == Author::Ourselves {
            let host = self.host.clone();
            let made = blocking(move || host.prepare(&module, &sizes, grants)).await??;
            return Ok((made, Way::Here));
        }
        let (shop, bytes) = (self.clone(), Arc::clone(&module));
        let looked = blocking(move || shop.look(&bytes, &sizes, grants)).await??;
        let id = match looked {
            Ok(prepared) => return Ok((prepared, Way::Kept)),
            Err(id) => id,
        };
        let compiled = self.compiler.compile(&module, self.host.metering()).await?;
        let shop = self.clone();
        let made = blocking(move || {
            let code = Genuine::proven(compiled);
            let prepared = shop.host.prepare_compiled(&module, &sizes, grants, &code)?;
            if let Some(artefacts) = &shop.artefacts {
                artefacts.keep(&id, &code);
            }
            Ok::<_, PrepareError>(prepared)
        });
        Ok((made.await??, Way::Apart))
    }

    /// The shell for scripts, made ready to [load](Prepared::script) them. Once for a host: it is a
    /// megabyte, and takes about a second to compile where nothing was kept.
    ///
    /// # Errors
    ///
    /// [`WorkshopError`]; the shell itself is not refused.
    pub async fn shell(&self) -> Result<(Prepared, Way), WorkshopError> {
        let all = Capability::ALL.into_iter().collect();
        let shell = Arc::from(shell_component());
        self.prepare(shell, Author::Somebody, SizeLimits::UNTRUSTED, all)
            .await
    }

    /// What is refused before it is compiled, then what was kept, or under which name it would be.
    fn look(
        &self,
        module: &[u8],
        sizes: &SizeLimits,
        grants: Grants,
    ) -> Result<Result<Prepared, ArtefactId>, PrepareError> {
        self.host.admit(module, sizes, grants)?;
        let id = ArtefactId {
            module: *blake3::hash(module).as_bytes(),
            engine: self.host.compatibility(),
        };
        let kept = self.artefacts.as_ref().and_then(|kept| kept.find(&id));
        let Some(code) = kept else {
            return Ok(Err(id));
        };
        match self.host.prepare_compiled(module, sizes, grants, &code) {
            Ok(prepared) => Ok(Ok(prepared)),
            Err(reason) => {
                warn!(%reason, "machine code that was kept is of no use, and made again");
                Ok(Err(id))
            }
        }
    }
}

/// Runs what takes a thread for milliseconds.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WorkshopError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| WorkshopError::GivenUp(error.to_string()))
}
