//! The screen at the sizes people have, and what keys do.

use std::collections::BTreeMap;

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use serde_json::json;

use super::model::Action;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn child(path: &str, kind: &str, children: serde_json::Value) -> serde_json::Value {
    let id = path.rsplit('/').next().expect("a name");
    json!({ "id": id, "path": path, "kind": kind, "state": "running", "restarts": 3,
        "mailbox_depth": 0, "uptime_ms": 61_000, "children": children,
        "last_exit": { "text": "panic: bad\u{1b}[2Jluck" } })
}

fn snapshot(completed: u64) -> Box<Snapshot> {
    let agents = json!([child("root/agents/worker-1", "worker", json!([]))]);
    let placed = json!([child("root/placed/scout", "worker", json!([]))]);
    let tree = child(
        "root",
        "supervisor",
        json!([
            child("root/agents", "supervisor", agents),
            child("root/placed", "supervisor", placed)
        ]),
    );
    let parts = BTreeMap::from([
        ("tree", tree),
        (
            "health",
            json!({ "status": "warning", "version": "1.2.3", "uptime_seconds": 3_725,
                "checks": { "disk": { "status": "warning", "detail": "almost full" } } }),
        ),
        (
            "queue",
            json!({ "size": 9, "max_size": 10, "bytes": 100, "paused": true,
                "states": { "executing": 2 }, "lanes": { "high": 4, "normal": 5 },
                "counters": { "completed": completed },
                "fairness": { "tenants": { "acme": { "share": 0.25, "fair_share": 0.5, "waiting": 7 } } } }),
        ),
        (
            "agents",
            json!({ "placed": [
                { "id": "scout", "state": "owned", "node": "a", "epoch": 7 },
                { "id": "far", "state": "owned", "node": "b", "epoch": 8 }
            ] }),
        ),
        (
            "nodes",
            json!({ "nodes": [
                { "name": "a", "here": true, "agents": 1 },
                { "name": "b/c", "agents": 2, "session": { "state": "ready" }, "heard": { "phi": 0.5 },
                  "watched": { "state": "quarantined" }, "note": { "stance": "drained" } }
            ] }),
        ),
        (
            "tasks",
            json!({ "tasks": [
                { "id": "t-1", "kind": "k", "state": "executing", "worker": "worker-1", "attempt": 1, "max_attempts": 5 },
                { "id": "t-2", "kind": "k", "state": "discarded", "error": "no" }
            ] }),
        ),
    ]);
    Box::new(Snapshot::read(&parts, Vec::new()))
}

fn seen() -> Model {
    let mut model = Model::new("http://127.0.0.1:7400", false);
    model.update(News::Polled(Ok(snapshot(0))), SECOND);
    model
}

/// What follows from the last of the keys.
fn press(model: &mut Model, keys: &[Key]) -> Option<Order> {
    let mut order = None;
    for key in keys {
        order = model.update(News::Pressed(*key), 2 * SECOND);
    }
    order
}

fn drawn(model: &Model, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
    terminal
        .draw(|frame| view::draw(frame, model))
        .expect("drawn");
    let buffer = terminal.backend().buffer();
    assert!(
        model.colour || buffer.content().iter().all(|cell| cell.fg == Color::Reset),
        "colour where none is wanted"
    );
    terminal.backend().to_string()
}

#[test]
fn every_view_fits_on_a_small_terminal_and_says_the_essential() {
    let mut model = seen();
    model.update(
        News::Happened("09:00:01 root/agents/worker-1 child_exited".to_owned()),
        SECOND,
    );
    for (key, expected) in [
        (
            '1',
            &[
                "worker-1",
                "running",
                "panic: bad",
                "epoch 7",
                "far owned on b",
            ][..],
        ),
        ('2', &["t-1", "executing", "worker-1", "discarded", "no"]),
        (
            '3',
            &[
                "90.0 % of 10",
                "paused: no lease",
                "high 4",
                "acme",
                "25.0 % served",
            ],
        ),
        ('4', &["here", "quarantined", "drained", "0.5"]),
        ('5', &["child_exited"]),
    ] {
        press(&mut model, &[Key::Char(key)]);
        for (width, height) in [(80, 24), (120, 40), (40, 8)] {
            let screen = drawn(&model, width, height);
            assert!(screen.contains("regrow top"), "{screen}");
            assert!(
                !screen.contains('\u{1b}'),
                "a name moves the cursor: {screen}"
            );
            if width < 80 {
                continue;
            }
            for text in expected {
                assert!(
                    screen.contains(text),
                    "no `{text}` at {width} by {height}:\n{screen}"
                );
            }
            assert!(
                screen.contains("9/10 waiting") && screen.contains("PAUSED"),
                "{screen}"
            );
            assert!(screen.contains("q quit"), "{screen}");
        }
    }
    assert!(drawn(&model, 20, 3).contains("at least 40"));
    press(&mut model, &[Key::Char('?')]);
    assert!(drawn(&model, 80, 24).contains("Ctrl-C quit"));
    assert_eq!(
        press(&mut model, &[Key::Char('q')]),
        None,
        "any key goes back first"
    );
    assert_eq!(press(&mut model, &[Key::Char('q')]), Some(Order::Quit));
}

#[test]
fn what_destroys_is_asked_about_and_only_yes_is_yes() {
    let kill = || Action {
        path: "/v1/agents/worker-1/kill".to_owned(),
        what: "kill agent worker-1".to_owned(),
    };
    let mut model = seen();
    assert_eq!(
        press(&mut model, &[Key::Char('x')]),
        None,
        "root is no agent"
    );
    assert!(drawn(&model, 80, 24).contains("root is no agent"));
    assert_eq!(
        press(&mut model, &[Key::Down, Key::Down, Key::Char('x')]),
        None
    );
    assert!(drawn(&model, 80, 24).contains("kill agent worker-1? y/n"));
    assert_eq!(press(&mut model, &[Key::Char('n')]), None);
    assert!(drawn(&model, 80, 24).contains("nothing was done"));
    let order = press(&mut model, &[Key::Char('x'), Key::Char('y')]);
    assert_eq!(order, Some(Order::Post(kill())));
    model.update(
        News::Done("kill agent worker-1: done".to_owned()),
        3 * SECOND,
    );
    assert!(drawn(&model, 80, 24).contains("kill agent worker-1: done"));
    let later = News::Polled(Ok(snapshot(0)));
    model.update(later, 60 * SECOND);
    assert!(!drawn(&model, 80, 24).contains("done\n"), "news grow old");

    let posted = |model: &mut Model, keys: &[Key]| {
        let Some(Order::Post(action)) = press(model, keys) else {
            unreachable!("nothing is asked for");
        };
        action.path
    };
    assert_eq!(
        posted(&mut model, &[Key::Char('p')]),
        "/v1/queue/resume",
        "it is paused"
    );
    let cancel = [Key::Char('2'), Key::Char('c'), Key::Char('y')];
    assert_eq!(posted(&mut model, &cancel), "/v1/tasks/t-1/cancel");
    let drain = [Key::Char('4'), Key::End, Key::Char('d'), Key::Char('y')];
    assert_eq!(posted(&mut model, &drain), "/v1/cluster/nodes/b%2Fc/drain");
    assert_eq!(
        posted(&mut model, &[Key::Char('u')]),
        "/v1/cluster/nodes/b%2Fc/release"
    );
    assert_eq!(press(&mut model, &[Key::Interrupt]), Some(Order::Quit));
}

#[test]
fn a_node_that_is_away_is_said_to_be_and_comes_back() {
    let mut model = Model::new("http://127.0.0.1:1", false);
    assert!(drawn(&model, 80, 24).contains("asking"));
    model.update(News::Polled(Err("cannot reach it".to_owned())), SECOND);
    assert!(drawn(&model, 80, 24).contains("NOT REACHED: cannot reach it"));
    model.update(News::Polled(Ok(snapshot(0))), 2 * SECOND);
    assert!(drawn(&model, 80, 24).contains("warning, up 1h2m, version 1.2.3"));
    model.update(News::Polled(Err("cannot reach it".to_owned())), 4 * SECOND);
    model.update(News::Polled(Err("cannot reach it".to_owned())), 9 * SECOND);
    let screen = drawn(&model, 80, 24);
    assert!(screen.contains("AWAY for 5s"), "{screen}");
    assert!(
        screen.contains("worker-1"),
        "what was seen last stays: {screen}"
    );
    model.update(News::Polled(Ok(snapshot(0))), 10 * SECOND);
    assert!(!drawn(&model, 80, 24).contains("AWAY"));
}

#[test]
fn rates_are_of_the_time_between_two_answers_and_a_new_life_is_no_negative_one() {
    let mut model = seen();
    model.update(News::Polled(Ok(snapshot(30))), 3 * SECOND);
    assert_eq!(model.rates[0], 15.0);
    assert!(drawn(&model, 80, 24).contains("15.0/s done"));
    model.update(News::Polled(Ok(snapshot(4))), 4 * SECOND);
    assert_eq!(model.rates[0], 0.0);
}

#[test]
fn no_colour_is_drawn_unless_it_is_wanted() {
    let mut model = seen();
    drawn(&model, 80, 24);
    model.colour = true;
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("a screen");
    terminal
        .draw(|frame| view::draw(frame, &model))
        .expect("drawn");
    let mut cells = terminal.backend().buffer().content().iter();
    assert!(cells.any(|cell| cell.fg != Color::Reset));
}

fn keys() -> impl Strategy<Value = Key> {
    prop_oneof![
        prop::char::range(' ', '~').prop_map(Key::Char),
        prop::sample::select(vec![
            Key::Up,
            Key::Down,
            Key::PageUp,
            Key::PageDown,
            Key::Home,
            Key::End,
            Key::Next,
            Key::Previous,
            Key::Escape,
        ]),
    ]
}

proptest! {
    /// No order of keys, news and sizes ends in a panic or outside the rows there are.
    #[test]
    fn any_keys_at_any_size_leave_a_screen(
        pressed in prop::collection::vec((keys(), 0..4_u8), 0..60),
        width in 1..140_u16,
        height in 1..50_u16,
    ) {
        let mut model = Model::new("http://h", true);
        for (n, (key, news)) in pressed.into_iter().enumerate() {
            let now = SECOND * n as u32;
            match news {
                0 => drop(model.update(News::Polled(Ok(snapshot(n as u64))), now)),
                1 => drop(model.update(News::Polled(Err("away".to_owned())), now)),
                2 => drop(model.update(News::Happened(format!("event {n}")), now)),
                _ => {}
            }
            model.update(News::Pressed(key), now);
            let rows = model.rows(model.tab);
            prop_assert!(model.selected[model.tab as usize] < rows.max(1));
        }
        drawn(&model, width, height);
    }
}
