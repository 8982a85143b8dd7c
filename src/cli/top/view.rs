//! The screen (pure): every state of the model as lines that fit the room there is.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};
use serde_json::Value;

use super::model::{Model, Tab, TreeRow};
use super::snapshot::{Node, QueueNow, Snapshot, Task};
use crate::cli::output::line;

/// Smaller than this there is nothing to be seen.
const LEAST: (u16, u16) = (40, 8);

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("at least {} by {} are needed", LEAST.0, LEAST.1);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let rows = [
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ];
    let [head, queue, tabs, body, foot] = Layout::vertical(rows).areas(area);
    let style = Styles {
        colour: model.colour,
    };
    frame.render_widget(Paragraph::new(self::head(model, &style)), head);
    frame.render_widget(Paragraph::new(self::summary(model, &style)), queue);
    frame.render_widget(Paragraph::new(self::tabs(model, &style)), tabs);
    self::body(frame, model, &style, body);
    frame.render_widget(Paragraph::new(self::foot(model, &style)), foot);
    if model.helping {
        help(frame, area);
    }
}

/// Colour is never the only sign of anything.
struct Styles {
    colour: bool,
}

impl Styles {
    fn of(&self, colour: Color) -> Style {
        match self.colour {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    fn good(&self) -> Style {
        self.of(Color::Green)
    }

    fn bad(&self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn odd(&self) -> Style {
        self.of(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    fn dim(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// By the word that says it.
    fn state(&self, word: &str) -> Style {
        match word {
            "running" | "ok" | "completed" | "ready" | "free" => self.good(),
            "failed" | "crashed" | "discarded" | "quarantined" | "abandoned" => self.bad(),
            "warning" | "backing_off" | "restarting" | "retryable" | "cordoned" | "draining"
            | "probation" => self.odd(),
            _ => Style::new(),
        }
    }
}

fn head<'a>(model: &'a Model, style: &Styles) -> Line<'a> {
    let mut spans = vec![
        Span::styled("regrow top", Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!(" {} ", model.url)),
    ];
    match (&model.away, &model.snapshot) {
        (Some((why, since)), seen) => {
            let away = model.now.saturating_sub(*since);
            let last = match seen {
                Some(_) => format!("AWAY for {}: ", time(away)),
                None => "NOT REACHED: ".to_owned(),
            };
            spans.push(Span::styled(last + why, style.bad()));
        }
        (None, None) => spans.push(Span::styled("asking …", style.dim())),
        (None, Some(seen)) => {
            let health = &seen.health;
            spans.push(Span::styled(&*health.status, style.state(&health.status)));
            let up = time(Duration::from_secs(health.uptime_seconds));
            spans.push(Span::raw(format!(", up {up}, version {}", health.version)));
        }
    }
    Line::from(spans)
}

fn summary<'a>(model: &'a Model, style: &Styles) -> Line<'a> {
    let Some(seen) = &model.snapshot else {
        return Line::default();
    };
    let QueueNow {
        size,
        max_size,
        states,
        paused,
        draining,
        ..
    } = &seen.queue;
    let executing = states.get("executing").copied().unwrap_or(0);
    let mut spans = vec![Span::raw(format!(
        "queue {size}/{max_size} waiting, {executing} executing, {:.1}/s done, {:.1}/s failed",
        model.rates[0], model.rates[1]
    ))];
    for (is_so, word) in [(*paused, " PAUSED"), (*draining, " DRAINING")] {
        if is_so {
            spans.push(Span::styled(word, style.odd()));
        }
    }
    let troubled = seen.health.checks.iter();
    let troubled = troubled.filter(|(_, check)| !["ok", ""].contains(&&*check.status));
    for (name, check) in troubled {
        let text = format!(" {name}: {}", line(&check.detail, 80));
        spans.push(Span::styled(text, style.state(&check.status)));
    }
    Line::from(spans)
}

fn tabs<'a>(model: &Model, style: &Styles) -> Line<'a> {
    let mut spans = Vec::new();
    for (n, tab) in Tab::ALL.into_iter().enumerate() {
        let chosen = match tab == model.tab {
            true => Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD),
            false => Style::new(),
        };
        spans.push(Span::styled(format!(" {} {} ", n + 1, tab.name()), chosen));
    }
    let missing = model
        .snapshot
        .as_ref()
        .map_or(&[][..], |seen| &seen.missing);
    if !missing.is_empty() {
        spans.push(Span::styled(
            format!(" no answer: {}", missing.join(", ")),
            style.odd(),
        ));
    }
    Line::from(spans)
}

fn foot<'a>(model: &'a Model, style: &Styles) -> Line<'a> {
    if let Some(action) = &model.asking {
        return Line::from(Span::styled(format!("{}? y/n", action.what), style.odd()));
    }
    if let Some(told) = model.told() {
        return Line::from(Span::raw(told));
    }
    let keys = match model.tab {
        Tab::Tree => "r restart  x kill  s stop  g start",
        Tab::Tasks => "c cancel  t retry",
        Tab::Queue => "d drain",
        Tab::Nodes => "c cordon  d drain  u release",
        Tab::Events => "",
    };
    Line::from(Span::styled(
        format!("q quit  ? help  p pause/resume  {keys}"),
        style.dim(),
    ))
}

fn body(frame: &mut Frame<'_>, model: &Model, style: &Styles, area: Rect) {
    let width = usize::from(area.width);
    let (head, rows): (String, Vec<Line<'_>>) = match (&model.snapshot, model.tab) {
        (_, Tab::Events) => {
            let events = model.events.iter().map(|event| Line::raw(event.as_str()));
            (String::new(), events.collect())
        }
        (None, _) => (String::new(), Vec::new()),
        (Some(_), Tab::Tree) => (tree_head(width), tree(model, style, width)),
        (Some(seen), Tab::Tasks) => (task_head(width), tasks(seen, style, width)),
        (Some(seen), Tab::Queue) => (String::new(), queue(&seen.queue, style)),
        (Some(seen), Tab::Nodes) => (node_head(), nodes(seen, style)),
    };
    let [top, rest] = Layout::vertical([
        Constraint::Length(u16::from(!head.is_empty())),
        Constraint::Min(0),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(Line::styled(head, style.dim())), top);
    let height = usize::from(rest.height);
    let chosen = model.selected[model.tab as usize];
    let first = (chosen + 1).saturating_sub(height);
    let shown: Vec<Line<'_>> = match rows.is_empty() {
        true => vec![Line::styled(nothing(model), style.dim())],
        false => {
            let rows = rows.into_iter().enumerate().skip(first).take(height);
            let marked = rows.map(|(n, row)| match n == chosen && model.tab != Tab::Queue {
                true => row.style(Style::new().add_modifier(Modifier::REVERSED)),
                false => row,
            });
            marked.collect()
        }
    };
    let old = match model.away {
        Some(_) => style.dim(),
        None => Style::new(),
    };
    frame.render_widget(Paragraph::new(shown).style(old), rest);
}

fn nothing(model: &Model) -> &'static str {
    match (&model.snapshot, model.tab) {
        (_, Tab::Events) => "nothing has happened since this began to watch",
        (None, _) => "the node has not answered yet",
        (Some(_), Tab::Tree) => "the node does not tell its tree",
        (Some(_), Tab::Tasks) => "there are no tasks",
        (Some(_), Tab::Queue) => "the node does not tell its queue",
        (Some(_), Tab::Nodes) => "no node is known",
    }
}

fn tree_head(width: usize) -> String {
    let name = name_width(width);
    format!(
        "{:name$} {:11} {:>4} {:>5} {:>7}  LAST EXIT",
        "CHILD", "STATE", "RST", "MBOX", "UP"
    )
}

fn name_width(width: usize) -> usize {
    (width / 3).clamp(16, 44)
}

fn tree<'a>(model: &'a Model, style: &Styles, width: usize) -> Vec<Line<'a>> {
    let wide = name_width(width);
    let placed = |row: &TreeRow| {
        let id = row.path.strip_prefix("root/placed/")?;
        let seen = model.snapshot.as_ref()?;
        seen.placed.iter().find(|placed| placed.id == id)
    };
    let rows = model.tree.iter().map(|row| {
        let mark = if row.is_supervisor { "+ " } else { "  " };
        let name = line(
            &format!("{}{mark}{}", " ".repeat(row.depth), row.name),
            wide,
        );
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |it| it.to_string());
        let up = row
            .uptime_ms
            .map(Duration::from_millis)
            .map_or("-".to_owned(), time);
        let owned = placed(row).map_or(String::new(), |placed| format!("epoch {} ", placed.epoch));
        Line::from(vec![
            Span::raw(format!("{:wide$} ", indented(row.depth, &name, wide))),
            Span::styled(format!("{:11} ", row.state), style.state(&row.state)),
            Span::raw(format!(
                "{:>4} {:>5} {up:>7}  ",
                row.restarts,
                number(row.mailbox)
            )),
            Span::raw(owned + &row.last_exit),
        ])
    });
    let elsewhere = model.snapshot.iter().flat_map(|seen| &seen.placed);
    let here: Vec<&str> = model.tree.iter().map(|row| &*row.path).collect();
    let elsewhere =
        elsewhere.filter(|placed| !here.contains(&&*format!("root/placed/{}", placed.id)));
    let elsewhere = elsewhere.map(|placed| {
        let node = placed.node.as_deref().unwrap_or("nowhere");
        Line::styled(
            line(
                &format!(
                    "{} {} on {node}, epoch {}",
                    placed.id, placed.state, placed.epoch
                ),
                200,
            ),
            style.dim(),
        )
    });
    rows.chain(elsewhere).collect()
}

fn indented(depth: usize, name: &str, wide: usize) -> String {
    let text = format!("{}{name}", " ".repeat(depth));
    text.chars().take(wide).collect()
}

/// Ids whole where there is room, else their ends, in which they differ.
fn id_width(width: usize) -> usize {
    if width < 110 { 13 } else { 36 }
}

fn task_head(width: usize) -> String {
    let id = id_width(width);
    format!(
        "{:id$} {:12} {:14} {:8} {:>5}  WORKER, LATEST FAILURE",
        "TASK", "STATE", "KIND", "LANE", "TRY"
    )
}

fn tasks<'a>(seen: &'a Snapshot, style: &Styles, width: usize) -> Vec<Line<'a>> {
    let wide = id_width(width);
    let row = |task: &'a Task| {
        let attempt = format!("{}/{}", task.attempt, task.max_attempts);
        let worker = task.worker.as_deref().unwrap_or_default();
        let failure = task.error.as_deref().or(task.last_error.as_deref());
        let id = line(&task.id, 40);
        let cut = id.chars().count().saturating_sub(wide);
        let id = match cut {
            0 => id,
            cut => format!("…{}", id.chars().skip(cut + 1).collect::<String>()),
        };
        let (state, kind) = (line(&task.state, 12), line(&task.kind, 14));
        let lane = line(&task.priority, 8);
        Line::from(vec![
            Span::raw(format!("{id:wide$} ")),
            Span::styled(format!("{state:12} "), style.state(&task.state)),
            Span::raw(format!("{kind:14} {lane:8} {attempt:>5}  ")),
            Span::raw(line(
                &format!("{worker} {}", failure.unwrap_or_default()),
                200,
            )),
        ])
    };
    seen.tasks.iter().map(row).collect()
}

fn queue<'a>(queue: &QueueNow, style: &Styles) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    let full = queue.size as f64 / queue.max_size.max(1) as f64;
    let bar = "#".repeat((full.min(1.0) * 40.0).round() as usize);
    let styled = match full {
        full if full < 0.75 => style.good(),
        full if full < 1.0 => style.odd(),
        _ => style.bad(),
    };
    lines.push(Line::from(vec![
        Span::raw("room     ["),
        Span::styled(format!("{bar:40}"), styled),
        Span::raw(format!(
            "] {:.1} % of {}, {} bytes",
            full * 100.0,
            queue.max_size,
            queue.bytes
        )),
    ]));
    let said = match (queue.paused, queue.draining) {
        (true, true) => "paused: no lease is given; draining: submissions are refused",
        (true, false) => "paused: no lease is given",
        (false, true) => "draining: submissions are refused",
        (false, false) => "open",
    };
    lines.push(Line::raw(format!("state    {said}")));
    let lanes = ["critical", "high", "normal", "low"];
    let lanes = lanes.map(|lane| format!("{lane} {}", queue.lanes.get(lane).copied().unwrap_or(0)));
    lines.push(Line::raw(format!(
        "lanes    {}, at a gate {}",
        lanes.join(", "),
        queue.parked
    )));
    for (title, counts) in [
        ("states", &queue.states),
        ("kinds", &queue.kinds),
        ("counts", &queue.counters),
    ] {
        let counts = counts.iter().filter(|(_, count)| 0 < **count);
        let counts: Vec<String> = counts
            .take(24)
            .map(|(name, count)| format!("{} {count}", line(name, 30)))
            .collect();
        for (n, some) in counts.chunks(4).enumerate() {
            let title = if n == 0 { title } else { "" };
            lines.push(Line::raw(format!("{title:8} {}", some.join(", "))));
        }
    }
    for (side, shares) in [
        ("class", &queue.fairness.classes),
        ("tenant", &queue.fairness.tenants),
    ] {
        for (name, share) in shares.iter().take(12) {
            lines.push(Line::raw(format!(
                "{side:8} {:20} {:>5.1} % served, {:>5.1} % due, {} waiting",
                line(name, 20),
                share.share * 100.0,
                share.fair_share * 100.0,
                share.waiting
            )));
        }
    }
    lines
}

fn node_head() -> String {
    format!(
        "{:20} {:12} {:>6} {:>6} {:>6} {:>8}  NOTE",
        "NODE", "STANDING", "AGENTS", "PHI", "LOAD", "LEASE"
    )
}

fn nodes<'a>(seen: &'a Snapshot, style: &Styles) -> Vec<Line<'a>> {
    let row = |node: &'a Node| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let standing = match node.here {
            true => "here".to_owned(),
            false => match text(&node.session["state"]) {
                state if state.is_empty() => "-".to_owned(),
                state => state,
            },
        };
        let kept_out = text(&node.watched["state"]);
        let standing = if ["", "free"].contains(&&*kept_out) {
            standing
        } else {
            kept_out
        };
        let number = |value: &Value| {
            value
                .as_f64()
                .map_or("-".to_owned(), |it| format!("{it:.1}"))
        };
        let load = node.report["load_permille"]
            .as_u64()
            .map_or("-".to_owned(), |it| format!("{:.1}%", it as f64 / 10.0));
        let lease = node
            .lease_left_ms
            .map(Duration::from_millis)
            .map_or("-".to_owned(), time);
        let note = text(&node.note["stance"]);
        Line::from(vec![
            Span::raw(format!("{:20} ", line(&node.name, 20))),
            Span::styled(
                format!("{:12} ", line(&standing, 12)),
                style.state(&standing),
            ),
            Span::raw(format!(
                "{:>6} {:>6} {load:>6} {lease:>8}  ",
                node.agents,
                number(&node.heard["phi"])
            )),
            Span::styled(line(&note, 40), style.state(&note)),
        ])
    };
    seen.nodes.iter().map(row).collect()
}

const HELP: [&str; 15] = [
    "1 to 5, Tab, arrows left/right   choose a view",
    "arrows up/down, j k, PgUp, PgDn  choose a row",
    "Home, End                        first and last row",
    "p         pause the queue, or resume it",
    "Tree      r restart  x kill  s stop  g start an agent",
    "Tasks     c cancel  t retry a task",
    "Queue     d drain: refuse submissions",
    "Nodes     c cordon  d drain  u release a node",
    "",
    "What ends, moves or refuses something is asked about first.",
    "Nothing of a node that is away is newer than the line on top says.",
    "",
    "q, Ctrl-C quit",
    "",
    "any key goes back",
];

fn help(frame: &mut Frame<'_>, area: Rect) {
    let width = 72.min(area.width);
    let height = (HELP.len() as u16 + 2).min(area.height);
    let [middle] = Layout::horizontal([Constraint::Length(width)])
        .flex(ratatui::layout::Flex::Center)
        .areas(area);
    let [window] = Layout::vertical([Constraint::Length(height)])
        .flex(ratatui::layout::Flex::Center)
        .areas(middle);
    frame.render_widget(Clear, window);
    let lines: Vec<Line<'_>> = HELP.iter().map(|text| Line::raw(*text)).collect();
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title(" Keys ")),
        window,
    );
}

/// A duration in at most seven characters.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}
