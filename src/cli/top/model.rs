//! What is on the screen, and how keys and news change it (pure).

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::Value;

use super::snapshot::{Branch, Snapshot};
use crate::cli::output::line;

/// Events that are kept to look at.
const EVENTS_MAX: usize = 500;
/// How long the outcome of an action is shown.
const TOLD_FOR: Duration = Duration::from_secs(8);

/// One of the views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tab {
    Tree,
    Tasks,
    Queue,
    Nodes,
    Events,
}

impl Tab {
    pub(super) const ALL: [Self; 5] = [
        Self::Tree,
        Self::Tasks,
        Self::Queue,
        Self::Nodes,
        Self::Events,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tree => "Tree",
            Self::Tasks => "Tasks",
            Self::Queue => "Queue",
            Self::Nodes => "Nodes",
            Self::Events => "Events",
        }
    }
}

/// A key, as far as it means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Next,
    Previous,
    Escape,
    Interrupt,
}

/// Something that happened.
#[derive(Debug)]
pub(super) enum News {
    Pressed(Key),
    /// The node answered, or not.
    Polled(Result<Box<Snapshot>, String>),
    /// Something happened on the node, in words.
    Happened(String),
    /// What was asked for is done, or not, in words.
    Done(String),
}

/// What has to be done because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Quit,
    Post(Action),
}

/// A change that the node is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Action {
    pub(super) path: String,
    /// What it does, in words: "kill agent worker-1".
    pub(super) what: String,
}

/// One row of the tree.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TreeRow {
    pub(super) depth: usize,
    pub(super) name: String,
    pub(super) path: String,
    pub(super) is_supervisor: bool,
    pub(super) state: String,
    pub(super) restarts: u64,
    pub(super) mailbox: Option<u64>,
    pub(super) uptime_ms: Option<u64>,
    pub(super) last_exit: String,
}

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) url: String,
    pub(super) colour: bool,
    pub(super) tab: Tab,
    pub(super) selected: [usize; Tab::ALL.len()],
    pub(super) now: Duration,
    pub(super) snapshot: Option<Snapshot>,
    /// When it was told.
    pub(super) seen_at: Duration,
    /// Why there is nothing newer, and since when.
    pub(super) away: Option<(String, Duration)>,
    pub(super) tree: Vec<TreeRow>,
    pub(super) events: VecDeque<String>,
    /// Tasks completed and failed per second, of late.
    pub(super) rates: [f64; 3],
    /// What is to be confirmed.
    pub(super) asking: Option<Action>,
    pub(super) told: Option<(String, Duration)>,
    pub(super) helping: bool,
}

impl Model {
    pub(super) fn new(url: &str, colour: bool) -> Self {
        Self {
            url: line(url, 60),
            colour,
            tab: Tab::Tree,
            selected: [0; Tab::ALL.len()],
            now: Duration::ZERO,
            snapshot: None,
            seen_at: Duration::ZERO,
            away: None,
            tree: Vec::new(),
            events: VecDeque::new(),
            rates: [0.0; 3],
            asking: None,
            told: None,
            helping: false,
        }
    }

    /// Takes in what happened at `now`, counted from the start, and says what follows.
    pub(super) fn update(&mut self, news: News, now: Duration) -> Option<Order> {
        self.now = now;
        match news {
            News::Pressed(key) => return self.pressed(key),
            News::Polled(Ok(snapshot)) => self.polled(*snapshot),
            News::Polled(Err(why)) => {
                let since = self.away.take().map_or(now, |(_, since)| since);
                self.away = Some((line(&why, 300), since));
            }
            News::Happened(event) => {
                // Whoever looks at an older one goes on looking at it.
                let at = &mut self.selected[Tab::Events as usize];
                if 0 < *at {
                    *at += 1;
                }
                self.events.push_front(line(&event, 400));
                self.events.truncate(EVENTS_MAX);
                let rows = self.events.len();
                self.keep_within(Tab::Events, rows);
            }
            News::Done(what) => self.tell(line(&what, 300)),
        }
        None
    }

    fn polled(&mut self, snapshot: Snapshot) {
        let counters = ["completed", "failed", "accepted"];
        if let Some(before) = &self.snapshot {
            let seconds = self.now.saturating_sub(self.seen_at).as_secs_f64();
            for (rate, name) in self.rates.iter_mut().zip(counters) {
                let count = |of: &Snapshot| of.queue.counters.get(name).copied().unwrap_or(0);
                // Counters begin anew with the node.
                let rose = count(&snapshot).saturating_sub(count(before));
                if 0.1 < seconds {
                    *rate = rose as f64 / seconds;
                }
            }
        }
        let chosen = self.tree.get(self.selected[Tab::Tree as usize]);
        let chosen = chosen.map(|row| row.path.clone());
        let task = self.chosen_task();
        self.tree.clear();
        flatten(&snapshot.tree, 0, &mut self.tree);
        // The selection stays with what it is on, wherever that has moved to.
        if let Some(at) = self
            .tree
            .iter()
            .position(|row| Some(&row.path) == chosen.as_ref())
        {
            self.selected[Tab::Tree as usize] = at;
        }
        if let Some(at) = snapshot
            .tasks
            .iter()
            .position(|it| Some(&it.id) == task.as_ref())
        {
            self.selected[Tab::Tasks as usize] = at;
        }
        (self.seen_at, self.away) = (self.now, None);
        self.snapshot = Some(snapshot);
        for tab in Tab::ALL {
            let rows = self.rows(tab);
            self.keep_within(tab, rows);
        }
    }

    fn chosen_task(&self) -> Option<String> {
        let tasks = &self.snapshot.as_ref()?.tasks;
        Some(tasks.get(self.selected[Tab::Tasks as usize])?.id.clone())
    }

    /// Rows that may be chosen from.
    pub(super) fn rows(&self, tab: Tab) -> usize {
        let of = |count: fn(&Snapshot) -> usize| self.snapshot.as_ref().map_or(0, count);
        match tab {
            Tab::Tree => self.tree.len(),
            Tab::Tasks => of(|it| it.tasks.len()),
            Tab::Queue => 0,
            Tab::Nodes => of(|it| it.nodes.len()),
            Tab::Events => self.events.len(),
        }
    }

    fn keep_within(&mut self, tab: Tab, rows: usize) {
        let at = &mut self.selected[tab as usize];
        *at = (*at).min(rows.saturating_sub(1));
    }

    fn tell(&mut self, what: String) {
        self.told = Some((what, self.now));
    }

    /// The latest outcome, while it is news.
    pub(super) fn told(&self) -> Option<&str> {
        let (what, at) = self.told.as_ref()?;
        (self.now.saturating_sub(*at) < TOLD_FOR).then_some(what)
    }

    fn pressed(&mut self, key: Key) -> Option<Order> {
        if key == Key::Interrupt {
            return Some(Order::Quit);
        }
        if let Some(action) = self.asking.take() {
            if matches!(key, Key::Char('y' | 'Y')) {
                return Some(Order::Post(action));
            }
            self.tell("nothing was done".to_owned());
            return None;
        }
        if std::mem::take(&mut self.helping) {
            return None;
        }
        match key {
            Key::Char('q') => return Some(Order::Quit),
            Key::Char('?' | 'h') => self.helping = true,
            Key::Char(digit @ '1'..='5') => {
                let at = digit as usize - '1' as usize;
                self.tab = Tab::ALL[at];
            }
            Key::Next => self.tab = Tab::ALL[(self.tab as usize + 1) % Tab::ALL.len()],
            Key::Previous => {
                let before = self.tab as usize + Tab::ALL.len() - 1;
                self.tab = Tab::ALL[before % Tab::ALL.len()];
            }
            Key::Up => self.go(-1),
            Key::Down => self.go(1),
            Key::PageUp => self.go(-10),
            Key::PageDown => self.go(10),
            Key::Home => self.go(isize::MIN),
            Key::End => self.go(isize::MAX),
            Key::Char('p') => return self.pause_or_resume(),
            Key::Char(letter) => return self.act(letter),
            Key::Escape | Key::Interrupt => {}
        }
        None
    }

    fn go(&mut self, by: isize) {
        let last = self.rows(self.tab).saturating_sub(1);
        let at = &mut self.selected[self.tab as usize];
        *at = at.saturating_add_signed(by).min(last);
    }

    fn pause_or_resume(&mut self) -> Option<Order> {
        let queue = &self.snapshot.as_ref()?.queue;
        let (path, what) = match queue.paused || queue.draining {
            true => ("/v1/queue/resume", "resume the queue"),
            false => ("/v1/queue/pause", "pause the queue"),
        };
        Some(Order::Post(Action {
            path: path.to_owned(),
            what: what.to_owned(),
        }))
    }

    /// Keys that mean something in one view. What destroys or moves is asked about first.
    fn act(&mut self, letter: char) -> Option<Order> {
        let asked = match self.tab {
            Tab::Tree => self.of_agent(letter),
            Tab::Tasks => self.of_task(letter),
            Tab::Queue if letter == 'd' => {
                let what = "drain the queue: refuse submissions until it is resumed".to_owned();
                let path = "/v1/queue/drain".to_owned();
                Some((Action { path, what }, true))
            }
            Tab::Nodes => self.of_node(letter),
            Tab::Queue | Tab::Events => None,
        };
        match asked {
            Some((action, true)) => {
                self.asking = Some(action);
                None
            }
            Some((action, false)) => Some(Order::Post(action)),
            None => None,
        }
    }

    fn of_agent(&mut self, letter: char) -> Option<(Action, bool)> {
        let verb = match letter {
            'r' => "restart",
            'x' => "kill",
            's' => "stop",
            'g' => "start",
            _ => return None,
        };
        let path = self
            .tree
            .get(self.selected[Tab::Tree as usize])?
            .path
            .clone();
        let agent = ["root/agents/", "root/placed/"]
            .iter()
            .find_map(|above| path.strip_prefix(above));
        let Some(agent) = agent else {
            self.tell(format!(
                "{path} is no agent: only agents are stopped and started here"
            ));
            return None;
        };
        let action = Action {
            path: format!("/v1/agents/{}/{verb}", escaped(agent)),
            what: format!("{verb} agent {agent}"),
        };
        Some((action, verb != "start"))
    }

    fn of_task(&mut self, letter: char) -> Option<(Action, bool)> {
        let verb = match letter {
            'c' => "cancel",
            't' => "retry",
            _ => return None,
        };
        let id = self.chosen_task()?;
        let action = Action {
            path: format!("/v1/tasks/{}/{verb}", escaped(&id)),
            what: format!("{verb} task {id}"),
        };
        Some((action, verb == "cancel"))
    }

    fn of_node(&mut self, letter: char) -> Option<(Action, bool)> {
        let verb = match letter {
            'c' => "cordon",
            'd' => "drain",
            'u' => "release",
            _ => return None,
        };
        let nodes = &self.snapshot.as_ref()?.nodes;
        let name = &nodes.get(self.selected[Tab::Nodes as usize])?.name;
        let action = Action {
            path: format!("/v1/cluster/nodes/{}/{verb}", escaped(name)),
            what: format!("{verb} node {name}"),
        };
        Some((action, verb != "release"))
    }
}

/// A name within a path.
fn escaped(name: &str) -> String {
    let keep = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let bytes = name.bytes().map(|byte| match keep(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    bytes.collect()
}

fn flatten(branch: &Branch, depth: usize, rows: &mut Vec<TreeRow>) {
    if branch.path.is_empty() && branch.id.is_empty() && branch.children.is_empty() {
        return;
    }
    rows.push(TreeRow {
        depth,
        name: line(&branch.id, 40),
        path: branch.path.clone(),
        is_supervisor: branch.kind == "supervisor",
        state: line(&branch.state, 12),
        restarts: branch.restarts,
        mailbox: branch.mailbox_depth,
        uptime_ms: branch.uptime_ms,
        last_exit: exit_in_words(&branch.last_exit),
    });
    for child in &branch.children {
        flatten(child, depth + 1, rows);
    }
}

/// How a child ended last, as its supervisor said it.
fn exit_in_words(exit: &Value) -> String {
    line(exit["text"].as_str().unwrap_or_default(), 120)
}
