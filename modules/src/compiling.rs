//! A process of its own in which modules that nobody has read are compiled.
//!
//! A compiler is a large program, and what it does with a module that was made to hurt it is not
//! bounded by the module's size alone. So a module from outside is compiled by this program
//! started once more, with a limit on its memory and its processor time, and killed when its
//! deadline is over. Each process compiles one module. The next one is started while nobody waits
//! for it, so that starting costs nobody anything.
//!
//! Expressions are not compiled here: their components are written by this crate, of a shape and
//! size that no source changes (256 nodes at most, some kilobytes), in less time than a process
//! takes to answer. The line is who wrote the bytes, not how many there are.
//!
//! Whatever the process answers is taken for machine code of our compiler. It runs the same
//! program as this one, and nobody else holds the other ends of its pipes.

mod exchange;
pub mod process;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use crate::host::Metering;
use exchange::{Answer, HEADER_BYTES, Request};

/// How modules are compiled.
#[derive(Debug, Clone)]
pub struct CompilerConfig {
    /// The program to start, which must call [`process::main`] when it gets `arguments`.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// From handing the module over to its answer. Longer takes larger modules, and lets a
    /// hostile one hold its place for so long.
    pub deadline: Duration,
    /// Processor time of one process, rounded up to seconds.
    pub processor_time: Duration,
    /// Address space of one process, in bytes.
    pub memory_bytes: u64,
    /// Processes that compile at the same time; further modules wait.
    pub at_once: usize,
}

impl CompilerConfig {
    /// For a program: ten seconds, a gigabyte, two at once.
    pub fn new(program: PathBuf, arguments: Vec<OsString>) -> Self {
        Self {
            program,
            arguments,
            deadline: Duration::from_secs(10),
            processor_time: Duration::from_secs(10),
            memory_bytes: 1 << 30,
            at_once: 2,
        }
    }
}

/// Largest machine code that is taken, in bytes: some thirty times the largest module.
const CODE_BYTES_MAX: u64 = 64 << 20;

/// Why there is no machine code. Nothing of the module has run.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler does not take the module.
    #[error("it cannot be compiled: {0}")]
    Refused(String),
    /// The process was killed at its deadline.
    #[error("compiling it took longer than {0:?}, and was given up; make it smaller")]
    TooLong(Duration),
    /// The process ended without an answer: at a limit, mostly.
    #[error(
        "the process that compiled it {ended}; it may use {} MiB of memory and {:?} of a processor",
        .memory_bytes >> 20,
        .processor_time
    )]
    Died {
        /// How it ended.
        ended: String,
        /// What it could use.
        memory_bytes: u64,
        /// What it could use.
        processor_time: Duration,
    },
    /// No process could be started, or spoken to.
    #[error("the process that compiles modules cannot be {attempt}: {cause}")]
    Process {
        /// What was tried.
        attempt: &'static str,
        /// Why not.
        cause: io::Error,
    },
    /// The process answered what is no answer: a defect, or another program.
    #[error("the process that compiles modules answered nonsense: {0}")]
    Nonsense(&'static str),
}

/// Starts processes that compile, and kills them.
///
/// Cheap to clone. Dropping the last clone ends the process that waits.
#[derive(Debug, Clone)]
pub struct Compiler(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: CompilerConfig,
    places: Semaphore,
    /// Started ahead, for whoever comes next.
    ready: Mutex<Option<Child>>,
}

impl Compiler {
    /// Starts nothing yet.
    pub fn new(config: CompilerConfig) -> Self {
        Self(Arc::new(Inner {
            places: Semaphore::new(config.at_once.max(1)),
            ready: Mutex::new(None),
            config,
        }))
    }

    /// Starts the first process, so that the first module does not wait for it.
    ///
    /// # Errors
    ///
    /// [`CompileError::Process`]
    pub fn warm_up(&self) -> Result<(), CompileError> {
        let fresh = self.start()?;
        *self.0.ready.lock() = Some(fresh);
        Ok(())
    }

    /// Compiles a module for hosts of that metering, in a process that ends with it.
    ///
    /// Dropped before it ended, it kills the process.
    ///
    /// # Errors
    ///
    /// [`CompileError`]
    pub(crate) async fn compile(
        &self,
        module: &[u8],
        metering: Metering,
    ) -> Result<Vec<u8>, CompileError> {
        let place = self.0.places.acquire().await;
        let _place = place.map_err(|_| CompileError::Nonsense("it is closed"))?;
        let mut child = match self.take_ready() {
            Some(child) => child,
            None => self.start()?,
        };
        let deadline = self.0.config.deadline;
        let answered = tokio::time::timeout(deadline, self.exchange(&mut child, module, metering));
        let outcome = match answered.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(broken)) => {
                // Its end says more than the broken pipe. One that still runs is killed.
                let _ = child.start_kill();
                return Err(match (broken, child.wait().await) {
                    (Broken::Pipe(_), Ok(status)) => self.died(status),
                    (Broken::Pipe(cause), Err(_)) => CompileError::Process {
                        attempt: "spoken to",
                        cause,
                    },
                    (Broken::Nonsense(why), _) => CompileError::Nonsense(why),
                });
            }
            Err(_elapsed) => {
                let _ = child.start_kill();
                // Gone when this returns: nothing of it takes processor time from others.
                let _ = child.wait().await;
                return Err(CompileError::TooLong(deadline));
            }
        };
        let _ = child.start_kill();
        let _ = child.wait().await;
        // For the next one; if it cannot be started, that one will say so.
        if self.0.ready.lock().is_none() {
            let _ = self.warm_up();
        }
        outcome.map_err(CompileError::Refused)
    }

    fn take_ready(&self) -> Option<Child> {
        let mut ready = self.0.ready.lock().take()?;
        // One that ended while it waited is no use.
        matches!(ready.try_wait(), Ok(None)).then_some(ready)
    }

    fn start(&self) -> Result<Child, CompileError> {
        let config = &self.0.config;
        Command::new(&config.program)
            .args(&config.arguments)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|cause| CompileError::Process {
                attempt: "started",
                cause,
            })
    }

    async fn exchange(
        &self,
        child: &mut Child,
        module: &[u8],
        metering: Metering,
    ) -> Result<Result<Vec<u8>, String>, Broken> {
        let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Broken::Nonsense("it has no pipes"));
        };
        let config = &self.0.config;
        let request = Request {
            metering,
            memory_bytes: config.memory_bytes,
            processor_seconds: config.processor_time.as_secs_f64().ceil() as u64,
            module_bytes: module.len() as u64,
        };
        input.write_all(&request.to_bytes()).await?;
        input.write_all(module).await?;
        input.flush().await?;
        drop(input);
        let mut header = [0; HEADER_BYTES];
        output.read_exact(&mut header).await?;
        let answer = Answer::from_bytes(&header).ok_or(Broken::Nonsense("no answer of ours"))?;
        if CODE_BYTES_MAX < answer.bytes {
            return Err(Broken::Nonsense("it is too long"));
        }
        let mut body = Vec::new();
        // One more than it says, to see that it ends there.
        let read = (&mut output)
            .take(answer.bytes + 1)
            .read_to_end(&mut body)
            .await?;
        if read as u64 != answer.bytes {
            return Err(match (read as u64) < answer.bytes {
                true => Broken::Pipe(io::ErrorKind::UnexpectedEof.into()),
                false => Broken::Nonsense("it goes on after its end"),
            });
        }
        Ok(match answer.compiled {
            true => Ok(body),
            false => Err(String::from_utf8_lossy(&body).into_owned()),
        })
    }

    fn died(&self, status: ExitStatus) -> CompileError {
        CompileError::Died {
            ended: ended(status),
            memory_bytes: self.0.config.memory_bytes,
            processor_time: self.0.config.processor_time,
        }
    }
}

/// What went wrong between us and the process.
enum Broken {
    Pipe(io::Error),
    Nonsense(&'static str),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Pipe(error)
    }
}

fn ended(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.signal(), status.code()) {
        (Some(signal), _) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(signal) => format!("was ended by {signal}"),
            Err(_) => format!("was ended by signal {signal}"),
        },
        (None, Some(code)) => format!("ended with code {code}"),
        (None, None) => "ended".to_owned(),
    }
}
