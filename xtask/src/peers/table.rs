//! Runs to medians, medians to ratios, both to Markdown and JSON. No I/O.

use serde::Deserialize;
use serde_json::{Value, json};

use super::roster::{Peer, Store};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    /// Working off tasks that are there already.
    Drain,
    /// Concurrent callers, one acknowledged task per call.
    Single,
    /// One caller, many tasks per call.
    Batch,
}

impl Workload {
    pub(super) const ALL: [Self; 3] = [Self::Drain, Self::Single, Self::Batch];

    /// As the orders to a program name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Single => "single",
            Self::Batch => "batch",
        }
    }
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) tasks: usize,
    pub(super) callers: usize,
    pub(super) seconds: f64,
    pub(super) batch: usize,
    pub(super) payload_bytes: usize,
    /// After this long a drain is cut off and what was done by then is counted.
    pub(super) limit_seconds: f64,
    pub(super) rounds: usize,
}

/// What a program reports of one run.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Run {
    pub(super) tasks: u64,
    pub(super) unfinished: u64,
    pub(super) seconds: f64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) batch: u64,
    pub(super) tuning: String,
    pub(super) durability: String,
    pub(super) version: String,
}

impl Run {
    fn rate(&self) -> f64 {
        self.tasks as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// One queue under one workload: its runs, or why there are none.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) peer: &'static Peer,
    pub(super) workload: Workload,
    pub(super) runs: Vec<Run>,
    pub(super) failure: Option<String>,
}

impl Row {
    /// The median of its runs' tasks per second. A row that failed even once has none: the
    /// runs that went well would be a selection.
    fn rate(&self) -> Option<f64> {
        if self.failure.is_some() {
            return None;
        }
        let mut rates: Vec<f64> = self.runs.iter().map(Run::rate).collect();
        rates.sort_by(f64::total_cmp);
        let middle = rates.len() / 2;
        match rates.len() {
            0 => None,
            even if even % 2 == 0 => Some((rates[middle - 1] + rates[middle]) / 2.0),
            _ => Some(rates[middle]),
        }
    }

    fn total(&self, of: impl Fn(&Run) -> u64) -> u64 {
        self.runs.iter().map(of).sum()
    }
}

/// Ours against another on the same store.
#[derive(Debug, PartialEq)]
pub(super) struct Ratio {
    pub(super) store: Store,
    pub(super) workload: Workload,
    pub(super) ours: f64,
    pub(super) rival: &'static str,
    pub(super) rival_rate: f64,
    /// It is the fastest of the others.
    pub(super) is_best: bool,
    /// The least that is promised, where something is.
    pub(super) target: Option<f64>,
}

impl Ratio {
    fn value(&self) -> f64 {
        self.ours / self.rival_rate
    }

    fn verdict(&self) -> &'static str {
        match self.target {
            None => "no target",
            Some(target) if target <= self.value() => "met",
            Some(_) => "MISSED",
        }
    }
}

/// What is promised: the least ratio, against the best or against one that is named.
fn promise(store: Store, workload: Workload) -> Option<(f64, Option<&'static str>)> {
    match (store, workload) {
        (Store::Postgres, Workload::Drain) => Some((1.3, None)),
        (Store::Postgres, Workload::Single) => Some((4.0, None)),
        (Store::Sqlite, Workload::Drain) => Some((10.0, Some("riverqueue"))),
        (Store::Sqlite, Workload::Single) => Some((8.0, None)),
        (Store::Postgres | Store::Sqlite, Workload::Batch) | (Store::Redis, _) => None,
    }
}

/// The finished table.
pub(super) struct Table {
    pub(super) size: Size,
    /// What it ran on: machine, servers and their settings.
    pub(super) setting: Vec<String>,
    pub(super) rows: Vec<Row>,
}

impl Table {
    /// Ours against the best of the others per store and workload, and against whom else a
    /// promise names, where both sides have a figure.
    pub(super) fn ratios(&self) -> Vec<Ratio> {
        let mut ratios = Vec::new();
        for store in [Store::Postgres, Store::Sqlite] {
            for workload in Workload::ALL {
                let (mut rivals, mut ours) = (Vec::new(), None);
                for row in self.rows.iter().filter(|row| row.workload == workload) {
                    match row.rate() {
                        Some(rate) if row.peer.store != store || rate <= 0.0 => {}
                        Some(rate) if row.peer.is_ours() => ours = Some(rate),
                        Some(rate) => rivals.push((row.peer.name, rate)),
                        None => {}
                    }
                }
                rivals.sort_by(|a, b| b.1.total_cmp(&a.1));
                let promise = promise(store, workload);
                let named = promise.and_then(|(_, named)| named);
                for (place, (rival, rival_rate)) in rivals.into_iter().enumerate() {
                    let is_best = place == 0;
                    let (Some(ours), true) = (ours, is_best || named == Some(rival)) else {
                        continue;
                    };
                    let counts = named.map_or(is_best, |named| named == rival);
                    ratios.push(Ratio {
                        store,
                        workload,
                        ours,
                        rival,
                        rival_rate,
                        is_best,
                        target: promise.map(|(target, _)| target).filter(|_| counts),
                    });
                }
            }
        }
        ratios
    }

    /// Counted over every run of these queues: lost and executed twice.
    pub(super) fn harm(&self, of: impl Fn(&Peer) -> bool) -> (u64, u64) {
        let rows = || self.rows.iter().filter(|row| of(row.peer));
        (
            rows().map(|row| row.total(|run| run.lost)).sum(),
            rows().map(|row| row.total(|run| run.doubled)).sum(),
        )
    }

    /// For a person and for the sheet.
    pub(super) fn markdown(&self) -> String {
        let size = self.size;
        let mut text = String::new();
        for line in &self.setting {
            text.push_str(&format!("- {line}\n"));
        }
        text.push_str(&format!(
            "- no-op jobs, payload {} bytes, median of {} round(s); lost and doubled are sums over \
             all rounds\n",
            size.payload_bytes, size.rounds
        ));
        for workload in Workload::ALL {
            let rows: Vec<&Row> = self
                .rows
                .iter()
                .filter(|row| row.workload == workload)
                .collect();
            if rows.is_empty() {
                continue;
            }
            text.push_str(&format!("\n### {}\n\n", self.title(workload)));
            text.push_str(&grid(&self.cells(&rows)));
            for row in rows {
                if let Some(failure) = &row.failure {
                    let (name, store) = (row.peer.name, row.peer.store.name());
                    text.push_str(&format!("\n{name} on {store} has no figure: {failure}\n"));
                }
            }
        }
        text.push_str("\n### Ours against the others\n\n");
        text.push_str(&grid(&self.ratio_cells()));
        text
    }

    fn title(&self, workload: Workload) -> String {
        let size = self.size;
        match workload {
            Workload::Drain => format!(
                "Drain of {} preloaded tasks: first execution to last durable completion",
                size.tasks
            ),
            Workload::Single => format!(
                "Single submissions, each acknowledged: {} callers for {} s",
                size.callers, size.seconds
            ),
            Workload::Batch => format!(
                "Batch submissions: {} tasks, {} per call, one caller",
                size.tasks, size.batch
            ),
        }
    }

    fn cells(&self, rows: &[&Row]) -> Vec<Vec<String>> {
        let mut cells = vec![
            [
                "store",
                "queue",
                "tasks/s",
                "ours is",
                "per call",
                "lost",
                "doubled",
                "finished jobs",
                "fsync",
                "tuning",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for store in [Store::Postgres, Store::Sqlite, Store::Redis] {
            let mut here: Vec<&&Row> = rows.iter().filter(|row| row.peer.store == store).collect();
            here.sort_by(|a, b| b.rate().total_cmp_or_last(a.rate()));
            let ours = here
                .iter()
                .find(|row| row.peer.is_ours())
                .and_then(|row| row.rate());
            for row in here {
                cells.push(row_cells(row, ours));
            }
        }
        cells
    }

    fn ratio_cells(&self) -> Vec<Vec<String>> {
        let mut cells = vec![
            [
                "store", "workload", "ours/s", "against", "theirs/s", "ratio", "target", "",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        for ratio in self.ratios() {
            cells.push(vec![
                ratio.store.name().to_owned(),
                ratio.workload.name().to_owned(),
                format!("{:.0}", ratio.ours),
                match ratio.is_best {
                    true => format!("{} (best)", ratio.rival),
                    false => ratio.rival.to_owned(),
                },
                format!("{:.0}", ratio.rival_rate),
                format!("{:.2}", ratio.value()),
                ratio
                    .target
                    .map_or_else(String::new, |target| format!("{target:.1}")),
                ratio.verdict().to_owned(),
            ]);
        }
        cells
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(row_json).collect();
        let ratios: Vec<Value> = self
            .ratios()
            .iter()
            .map(|ratio| {
                json!({
                    "store": ratio.store.name(),
                    "workload": ratio.workload.name(),
                    "ours_per_second": ratio.ours,
                    "against": ratio.rival,
                    "against_per_second": ratio.rival_rate,
                    "is_best": ratio.is_best,
                    "ratio": ratio.value(),
                    "target": ratio.target,
                    "verdict": ratio.verdict(),
                })
            })
            .collect();
        json!({
            "setting": self.setting,
            "tasks": self.size.tasks,
            "callers": self.size.callers,
            "payload_bytes": self.size.payload_bytes,
            "rounds": self.size.rounds,
            "rows": rows,
            "ratios": ratios,
        })
    }
}

fn row_cells(row: &Row, ours: Option<f64>) -> Vec<String> {
    let peer = row.peer;
    let queue = match row.runs.first() {
        Some(run) => format!("{} {}", peer.name, run.version),
        None => peer.name.to_owned(),
    };
    let rate = row.rate();
    let mut cells = vec![
        peer.store.name().to_owned(),
        queue,
        rate.map_or_else(|| "none".to_owned(), |rate| format!("{rate:.0}")),
        match (ours, rate) {
            (Some(ours), Some(rate)) if !peer.is_ours() => format!("{:.1}×", ours / rate),
            _ => String::new(),
        },
    ];
    let Some(run) = row.runs.first() else {
        cells.extend(["", "", "", peer.finished, "", ""].map(str::to_owned));
        return cells;
    };
    let unfinished = row.total(|run| run.unfinished);
    let cut = match unfinished {
        0 => String::new(),
        _ => format!(" (cut off, {unfinished} not done)"),
    };
    cells.extend([
        run.batch.to_string(),
        row.total(|run| run.lost).to_string(),
        row.total(|run| run.doubled).to_string(),
        peer.finished.to_owned(),
        run.durability.clone(),
        format!("{}{cut}", run.tuning),
    ]);
    cells
}

fn row_json(row: &Row) -> Value {
    let run = row.runs.first();
    json!({
        "queue": row.peer.name,
        "store": row.peer.store.name(),
        "workload": row.workload.name(),
        "version": run.map(|run| &run.version),
        "tasks_per_second": row.rate(),
        "each_round": row.runs.iter().map(Run::rate).collect::<Vec<f64>>(),
        "per_call": run.map(|run| run.batch),
        "durability": run.map(|run| &run.durability),
        "tuning": run.map(|run| &run.tuning),
        "finished_jobs": row.peer.finished,
        "unfinished": row.total(|run| run.unfinished),
        "lost": row.total(|run| run.lost),
        "doubled": row.total(|run| run.doubled),
        "failure": row.failure,
    })
}

/// Rows in columns of even width, as Markdown. The first row is the head.
fn grid(cells: &[Vec<String>]) -> String {
    let columns = cells.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let width = |row: &Vec<String>| row.get(column).map_or(0, |cell| cell.chars().count());
            cells.iter().map(width).max().unwrap_or(0).max(3)
        })
        .collect();
    let line = |row: &[String]| {
        let padded = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!(" {cell:<width$} |"));
        format!("|{}\n", padded.collect::<String>())
    };
    let mut text = String::new();
    for (number, row) in cells.iter().enumerate() {
        text.push_str(&line(row));
        if number == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text.push_str(&line(&rule));
        }
    }
    text
}

/// Orders figures, those that are missing last.
trait TotalCmpOrLast {
    fn total_cmp_or_last(self, other: Self) -> std::cmp::Ordering;
}

impl TotalCmpOrLast for Option<f64> {
    fn total_cmp_or_last(self, other: Self) -> std::cmp::Ordering {
        self.unwrap_or(-1.0).total_cmp(&other.unwrap_or(-1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::roster::PEERS;
    use super::*;

    fn run(rate: u64) -> Run {
        Run {
            tasks: rate,
            unfinished: 0,
            seconds: 1.0,
            lost: 0,
            doubled: 0,
            batch: 1,
            tuning: "none".to_owned(),
            durability: "synchronous_commit=on".to_owned(),
            version: "1.0.0".to_owned(),
        }
    }

    fn row(name: &str, store: Store, workload: Workload, rates: &[u64]) -> Row {
        let named = |peer: &&Peer| peer.name == name && peer.store == store;
        Row {
            peer: PEERS.iter().find(named).expect("on the roster"),
            workload,
            runs: rates.iter().map(|rate| run(*rate)).collect(),
            failure: None,
        }
    }

    fn table(rows: Vec<Row>) -> Table {
        let size = Size {
            tasks: 40_000,
            callers: 16,
            seconds: 4.0,
            batch: 500,
            payload_bytes: 200,
            limit_seconds: 60.0,
            rounds: 3,
        };
        Table {
            size,
            setting: vec!["2 cores".to_owned()],
            rows,
        }
    }

    #[test]
    fn a_ratio_takes_medians_and_the_best_of_the_same_store() {
        let drain = Workload::Drain;
        let table = table(vec![
            row("regrow", Store::Postgres, drain, &[60, 10, 65]),
            row("graphile-worker", Store::Postgres, drain, &[40, 41, 500]),
            row("pg-boss", Store::Postgres, drain, &[20, 21, 22]),
            row("riverqueue", Store::Sqlite, drain, &[900, 900, 900]),
        ]);
        let ratios = table.ratios();
        assert_eq!(ratios.len(), 1, "{ratios:?}");
        assert_eq!((ratios[0].ours, ratios[0].rival_rate), (60.0, 41.0));
        assert_eq!(ratios[0].rival, "graphile-worker");
        assert_eq!(ratios[0].verdict(), "met");
    }

    #[test]
    fn a_promise_against_one_that_is_named_is_held_against_that_one() {
        let drain = Workload::Drain;
        let table = table(vec![
            row("regrow", Store::Sqlite, drain, &[100]),
            row("riverqueue", Store::Sqlite, drain, &[9]),
            row("apalis+ANALYZE", Store::Sqlite, drain, &[80]),
            row("apalis", Store::Sqlite, drain, &[1]),
        ]);
        let told: Vec<_> = table
            .ratios()
            .iter()
            .map(|ratio| (ratio.rival, ratio.is_best, ratio.verdict()))
            .collect();
        assert_eq!(
            told,
            [
                ("apalis+ANALYZE", true, "no target"),
                ("riverqueue", false, "met")
            ]
        );
    }

    #[test]
    fn a_target_that_is_not_reached_is_called_missed() {
        let single = Workload::Single;
        let table = table(vec![
            row("regrow", Store::Sqlite, single, &[79]),
            row("riverqueue", Store::Sqlite, single, &[10]),
        ]);
        assert_eq!(table.ratios()[0].verdict(), "MISSED");
        assert!(table.markdown().contains("MISSED"));
    }

    #[test]
    fn a_queue_that_fails_in_one_round_has_no_figure_but_a_reason() {
        let mut failing = row(
            "pg-boss",
            Store::Postgres,
            Workload::Drain,
            &[20_000, 21_000],
        );
        failing.failure = Some("exit code 1: out of connections".to_owned());
        let ours = row("regrow", Store::Postgres, Workload::Drain, &[10]);
        let table = table(vec![failing, ours]);
        assert_eq!(table.ratios(), Vec::new());
        let text = table.markdown();
        assert!(
            !text.contains("20500") && text.contains("out of connections"),
            "{text}"
        );
        assert_eq!(table.json()["rows"][0]["tasks_per_second"], Value::Null);
    }

    #[test]
    fn harm_in_any_round_is_counted() {
        let mut harmed = row("awa", Store::Postgres, Workload::Drain, &[5, 6, 7]);
        harmed.runs[1].lost = 2;
        harmed.runs[2].doubled = 3;
        let table = table(vec![harmed]);
        assert_eq!(table.harm(|_| true), (2, 3));
        assert_eq!(table.json()["rows"][0]["doubled"], 3);
    }

    #[test]
    fn an_even_number_of_rounds_has_the_mean_of_its_middle() {
        let row = row("awa", Store::Postgres, Workload::Drain, &[1, 9, 3, 5]);
        assert_eq!(row.rate(), Some(4.0));
    }
}
