//! Modules compiled in processes of their own, which are started, limited and killed for real.
//!
//! This binary is also the program that is started: with `compile` it is the process under test,
//! with other words it is one that misbehaves.

#[path = "../sandbox/guests.rs"]
#[expect(dead_code, reason = "the sandbox's tests ask more of their guests")]
mod guests;
mod processes;
mod workshop;

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use regrow_modules::compiling::process;

type Scenario = fn();

macro_rules! scenarios {
    ($($module:ident::$name:ident),* $(,)?) => {
        [$((stringify!($name), (|| runtime().block_on($module::$name())) as Scenario)),*]
    };
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("compile") => return process::main(),
        Some("hang") => return hang(),
        Some("chatter") => return chatter(),
        Some("faint") => return ExitCode::from(7),
        _ => {}
    }
    let trials = scenarios![
        processes::a_module_is_compiled_apart_and_runs_here,
        processes::one_that_takes_too_long_is_killed_and_gone,
        processes::one_that_takes_too_much_memory_dies_alone,
        processes::one_that_takes_too_much_of_a_processor_is_ended,
        processes::what_answers_nonsense_or_nothing_is_not_believed,
        processes::what_the_host_has_no_room_for_is_refused_after_it_was_compiled,
        processes::a_process_that_died_while_it_waited_is_not_used,
        processes::a_call_that_is_dropped_leaves_no_process,
        workshop::a_module_is_compiled_once_and_found_by_the_next_workshop,
        workshop::the_shell_is_compiled_once_and_loads_scripts_wherever_it_came_from,
        workshop::damaged_machine_code_is_refused_counted_and_made_again,
        workshop::what_is_refused_never_reaches_the_compiler,
        workshop::our_own_components_are_compiled_here,
    ];
    let trials: Vec<Trial> = trials
        .into_iter()
        .map(|(name, scenario)| {
            Trial::test(name, move || {
                scenario();
                Ok(())
            })
        })
        .collect();
    let mut arguments = Arguments::from_args();
    // They look for each other's processes.
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Takes everything and never answers.
fn hang() -> ExitCode {
    let mut taken = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut taken);
    loop {
        std::thread::park();
    }
}

/// Says what nobody asked.
fn chatter() -> ExitCode {
    let _ = std::io::stdout().write_all(&[b'x'; 4_096]);
    let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    ExitCode::SUCCESS
}
