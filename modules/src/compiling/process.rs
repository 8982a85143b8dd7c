//! The other end: a process that compiles one module and ends.
//!
//! It sets its own limits before it reads the module, so that no code has to run between fork and
//! exec. It opens no file and no socket, starts no thread, and has no environment.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use nix::sys::resource::{Resource, rlim_t, setrlimit};

use super::exchange::{Answer, HEADER_BYTES, Request};
use crate::host::machine_code;
use crate::inspection::SizeLimits;

/// Reads a module from standard input, writes machine code to standard output, and ends.
///
/// To be called before anything else that takes memory or starts threads: the limits hold from
/// here on for all of the process.
pub fn main() -> ExitCode {
    match serve(&mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever started it sees a process that ended without an answer.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let mut header = [0; HEADER_BYTES];
    input.read_exact(&mut header)?;
    let request = Request::from_bytes(&header)
        .filter(|request| request.module_bytes <= SizeLimits::UNTRUSTED.bytes as u64)
        .ok_or(io::ErrorKind::InvalidData)?;
    limit(&request)?;
    let mut module = Vec::new();
    input.take(request.module_bytes).read_to_end(&mut module)?;
    if module.len() as u64 != request.module_bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let made = machine_code(&module, request.metering);
    let (compiled, body) = match made {
        Ok(code) => (true, code),
        Err(why) => (false, why.into_bytes()),
    };
    let answer = Answer {
        compiled,
        bytes: body.len() as u64,
    };
    output.write_all(&answer.to_bytes())?;
    output.write_all(&body)?;
    output.flush()
}

fn limit(request: &Request) -> io::Result<()> {
    let set = |resource, most: rlim_t| setrlimit(resource, most, most).map_err(io::Error::from);
    set(Resource::RLIMIT_AS, request.memory_bytes)?;
    set(Resource::RLIMIT_CPU, request.processor_seconds.max(1))?;
    // It writes to a pipe, opens nothing, and leaves no picture of its memory behind.
    set(Resource::RLIMIT_FSIZE, 0)?;
    set(Resource::RLIMIT_CORE, 0)
}
