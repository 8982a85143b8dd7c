//! `regrow top`: the node and its cluster on a terminal, live, with keys for what is asked of them
//! often.
//!
//! [`model`] says what is on the screen and how keys and news change it, [`view`] draws it; both are
//! plain functions. [`feed`] asks the node. The terminal is put back when this ends, also by a panic
//! or a signal. Of the backends of ratatui the smallest: keys come from a thread, not from an event
//! loop beside ours.

mod feed;
mod model;
mod snapshot;
#[cfg(test)]
mod tests;
mod view;

use std::io::{IsTerminal as _, stdin, stdout};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::FutureExt as _;
use parking_lot::Mutex;
use ratatui::Terminal;
use ratatui::backend::{Backend, TermionBackend, TestBackend};
use ratatui::termion::event::Key as Pressed;
use ratatui::termion::input::TermRead as _;
use ratatui::termion::raw::IntoRawMode as _;
use ratatui::termion::screen::IntoAlternateScreen as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::model::{Key, Model, News, Order};
use self::snapshot::Snapshot;
use super::Failure;
use super::output::print;
use crate::client::{Client, NodeArgs};

/// News that wait to be taken in; events beyond wait on the node.
const NEWS_MAX: usize = 256;
/// How often the clock on the screen moves.
const TICK: Duration = Duration::from_millis(500);
/// The page of `--once`.
const PAGE: (u16, u16) = (100, 60);

#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// How often to ask the node
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = period)]
    every: Duration,
    /// Print one look at the tree and end; `--json` prints all that was answered
    #[arg(long)]
    once: bool,
    /// The key `!` panics: a rehearsal of what a bug does to the terminal
    #[arg(long, hide = true)]
    rehearse_panic: bool,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

fn period(text: &str) -> Result<Duration, String> {
    let found = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match (Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&found) {
        true => Ok(found),
        false => Err("must be from 100ms to 1h".to_owned()),
    }
}

/// Exits with 0 when a person ends it, or once it has printed what was asked for.
pub(crate) async fn run(args: TopArgs) -> Result<(), Failure> {
    let client = Arc::new(Client::new(&args.node)?);
    if args.once || args.node.json {
        return once(&client, args.node.json).await;
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::Usage(
            "`regrow top` needs a terminal; `--once` prints one look, `--json` for programs"
                .to_owned(),
        ));
    }
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|said| !said.is_empty());
    let mut model = Model::new(client.address(), !no_colour);
    // A panic is told once the terminal is as it was: until then nobody could read it.
    let (panicked, before) = (Arc::new(Mutex::new(None)), std::panic::take_hook());
    let told = panicked.clone();
    std::panic::set_hook(Box::new(move |panic| {
        *told.lock() = Some(panic.to_string())
    }));
    let ended = on_the_terminal(&mut model, &client, &args).await;
    std::panic::set_hook(before);
    let bug = panicked.lock().take();
    bug.map_or(ended, |bug| {
        Err(Failure::Outcome(format!("the view met a bug: {bug}")))
    })
}

/// Takes the terminal, and gives it back whatever happens.
async fn on_the_terminal(
    model: &mut Model,
    client: &Arc<Client>,
    args: &TopArgs,
) -> Result<(), Failure> {
    let screen = stdout().into_raw_mode()?.into_alternate_screen()?;
    let mut terminal = Terminal::new(TermionBackend::new(screen))?;
    let watched = AssertUnwindSafe(watch(&mut terminal, model, client, args));
    let ended = watched.catch_unwind().await;
    // What stays hidden otherwise; the rest is put back by being dropped.
    let _ = terminal.show_cursor();
    drop(terminal);
    // Or what is told next would stand on the screen that goes.
    let _ = std::io::Write::flush(&mut stdout());
    ended.unwrap_or_else(|_| Err(Failure::Outcome("the view ended".to_owned())))
}

async fn once(client: &Client, json: bool) -> Result<(), Failure> {
    let (parts, missing) = feed::ask(client).await.map_err(Failure::Outcome)?;
    if json {
        let mut all = json!(parts);
        all["missing"] = json!(missing);
        print(&all.to_string())?;
        return Ok(());
    }
    let mut model = Model::new(client.address(), false);
    let seen = Snapshot::read(&parts, missing);
    model.update(News::Polled(Ok(Box::new(seen))), Duration::ZERO);
    let rows = u16::try_from(model.tree.len()).unwrap_or(u16::MAX);
    let page = TestBackend::new(PAGE.0, rows.saturating_add(5).max(PAGE.1));
    let Ok(mut terminal) = Terminal::new(page);
    let Ok(_) = terminal.draw(|frame| view::draw(frame, &model));
    let shown = terminal.backend().to_string();
    let lines = shown.lines().map(|line| line.trim_matches('"').trim_end());
    // Keys do nothing here.
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with("q quit"));
    print(&lines.collect::<Vec<_>>().join("\n"))?;
    Ok(())
}

async fn watch<B: Backend<Error = std::io::Error>>(
    terminal: &mut Terminal<B>,
    model: &mut Model,
    client: &Arc<Client>,
    args: &TopArgs,
) -> Result<(), Failure> {
    let (send, mut news) = mpsc::channel(NEWS_MAX);
    let (begun, sooner) = (Instant::now(), Arc::new(Notify::new()));
    let mut work = JoinSet::new();
    work.spawn(feed::poll(
        client.clone(),
        args.every,
        sooner.clone(),
        send.clone(),
    ));
    work.spawn(feed::follow(client.clone(), send.clone()));
    let keys = send.clone();
    // Ends with the terminal, or with the process.
    let reading = std::thread::spawn(move || read(&keys));
    let mut ends = [SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [Ok(term), Ok(hangup)] = &mut ends else {
        return Err(Failure::Outcome("signals cannot be listened to".to_owned()));
    };
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        terminal.draw(|frame| view::draw(frame, model))?;
        let first = tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
            one = news.recv() => one,
            _ = tick.tick() => {
                model.now = begun.elapsed();
                None
            }
        };
        // What has come meanwhile is drawn at once.
        let mut next = first;
        while let Some(one) = next {
            if args.rehearse_panic && matches!(one, News::Pressed(Key::Char('!'))) {
                unreachable!("the rehearsal asked for a panic");
            }
            match model.update(one, begun.elapsed()) {
                Some(Order::Quit) => return Ok(()),
                Some(Order::Post(action)) => {
                    let (client, sooner, send) = (client.clone(), sooner.clone(), send.clone());
                    work.spawn(async move {
                        let done = feed::carry_out(&client, &action).await;
                        // Nobody is left to be told when the program ends.
                        let _ = send.send(News::Done(done)).await;
                        sooner.notify_one();
                    });
                }
                None => {}
            }
            next = news.try_recv().ok();
        }
        while let Some(done) = work.try_join_next() {
            done.map_err(|error| Failure::Outcome(format!("a part of the view ended: {error}")))?;
        }
        if reading.is_finished() {
            return Err(Failure::Outcome("the terminal is gone".to_owned()));
        }
    }
}

/// Reads keys until the terminal is gone or nobody listens.
fn read(news: &mpsc::Sender<News>) {
    for pressed in stdin().keys() {
        let Ok(pressed) = pressed else { return };
        if let Some(key) = meaning(pressed)
            && news.blocking_send(News::Pressed(key)).is_err()
        {
            return;
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "most keys mean nothing")]
fn meaning(pressed: Pressed) -> Option<Key> {
    Some(match pressed {
        Pressed::Ctrl('c') => Key::Interrupt,
        Pressed::Char('\t') | Pressed::Right => Key::Next,
        Pressed::BackTab | Pressed::Left => Key::Previous,
        Pressed::Char('j') | Pressed::Down => Key::Down,
        Pressed::Char('k') | Pressed::Up => Key::Up,
        Pressed::Char(letter) => Key::Char(letter),
        Pressed::PageUp => Key::PageUp,
        Pressed::PageDown => Key::PageDown,
        Pressed::Home => Key::Home,
        Pressed::End => Key::End,
        Pressed::Esc => Key::Escape,
        _ => return None,
    })
}
