//! The disk refuses: errors, no room, read-only. Callers are told, nothing acknowledged is
//! lost, and the node goes on by itself as soon as the disk does.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use regrow_runtime::ids::{Epoch, TaskId};
use regrow_runtime::json::Json;
use regrow_runtime::queue::Queue;
use regrow_runtime::queue::task::{NewTask, TaskState};
use tokio::task::JoinSet;

use crate::node::{Node, request};
use crate::shim::{Shim, watched_dir};

/// A fault as the shim reads it, and words that somebody must read when it strikes.
struct Fault {
    fault: &'static str,
    says: &'static [&'static str],
}

const FAULTS: [Fault; 8] = [
    Fault {
        fault: "sync wal EIO once",
        says: &["commit", "disk I/O error", "look at the disk"],
    },
    Fault {
        fault: "write wal EIO once",
        says: &["commit", "disk I/O error", "look at the disk"],
    },
    Fault {
        fault: "sync wal EIO",
        says: &["commit", "disk I/O error", "recovering"],
    },
    Fault {
        fault: "write wal ENOSPC",
        says: &["the disk is full; free some space", "recovering"],
    },
    Fault {
        fault: "sync any ENOSPC",
        says: &["commit", "disk I/O error", "recovering"],
    },
    // The log is copied into the database when nobody writes for a while.
    Fault {
        fault: "sync db EIO",
        says: &["the log was not copied into the database"],
    },
    Fault {
        fault: "write db ENOSPC",
        says: &["the log was not copied into the database"],
    },
    // The file system becomes read-only, as Linux does after an error.
    Fault {
        fault: "any any EROFS",
        says: &["commit", "read-only", "make it writable", "recovering"],
    },
];

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    tasks: Vec<TaskId>,
    completed: Vec<(TaskId, Epoch)>,
}

impl Acknowledged {
    /// Submits many at once, completes some, and says what was refused.
    async fn work(&mut self, queue: &Queue) -> usize {
        let mut refused = 0;
        let mut submitting = JoinSet::new();
        for _ in 0..24 {
            let queue = queue.clone();
            let payload = Json::of(&"p".repeat(3_000)).expect("JSON");
            submitting.spawn(async move { queue.submit(NewTask::new("load", payload)).await });
        }
        for submitted in submitting.join_all().await {
            match submitted {
                Ok(submission) => self.tasks.push(submission.id),
                Err(refusal) => {
                    refused += 1;
                    println!("@ {}", chain(&refusal));
                }
            }
        }
        let Ok(leases) = queue.claim_now(&request("w", Duration::ZERO)) else {
            return refused + 1;
        };
        for lease in leases {
            let (id, epoch) = (lease.task.id, lease.epoch);
            match queue.complete(id, epoch, Json::null()).await {
                Ok(()) => self.completed.push((id, epoch)),
                Err(refusal) => {
                    refused += 1;
                    println!("@ {}", chain(&refusal));
                }
            }
        }
        refused
    }

    async fn check(&self, queue: &Queue) {
        for id in &self.tasks {
            let view = queue.task(*id).await.expect("readable");
            assert!(view.is_some(), "{id} was acknowledged and is lost");
        }
        for (id, epoch) in &self.completed {
            let view = queue.task(*id).await.expect("readable").expect("kept");
            let end = view.end.expect("its end was acknowledged");
            assert_eq!((end.state, end.epoch), (TaskState::Completed, *epoch));
        }
    }
}

/// What the node logs: for people, and here for the test.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn holds(&self, words: &str) -> bool {
        String::from_utf8_lossy(&self.0.lock()).contains(words)
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend(line);
        std::io::stdout().write(line)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stdout().flush()
    }
}

fn chain(refusal: &dyn std::error::Error) -> String {
    let mut text = refusal.to_string();
    let mut source = refusal.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The node whose disk refuses, from the tenth moment on until it is mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_on_a_failing_disk() {
    let (Some(dir), Some(switch)) = (watched_dir(), std::env::var_os("REGROW_DISK_FAULT")) else {
        return;
    };
    let (switch, fault) = (PathBuf::from(switch), std::env::var("REGROW_FAULT"));
    let Ok(fault) = fault else { return };
    let log = Log::default();
    let lines = log.clone();
    tracing_subscriber::fmt()
        .with_writer(move || lines.clone())
        .init();
    let mut acknowledged = Acknowledged::default();
    let node = Node::open(&dir).await.expect("sound");
    let queue = node.queue.clone();
    for _ in 0..10 {
        assert_eq!(acknowledged.work(&queue).await, 0, "the disk is in order");
    }
    std::fs::write(&switch, &fault).expect("writable");
    let mut refused = acknowledged.work(&queue).await;
    if fault.contains(" db ") {
        // It is found out when the log is copied, which takes a pause.
        let noticed = async {
            while !log.holds("was not copied") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let noticed = tokio::time::timeout(Duration::from_secs(30), noticed).await;
        noticed.expect("the log is copied in a pause");
        refused += acknowledged.work(&queue).await;
        acknowledged.check(&queue).await;
    } else {
        assert!(0 < refused, "`{fault}` went unnoticed");
    }
    if !fault.ends_with("once") && !fault.contains(" db ") {
        // Refused for as long as it lasts, and what is there can be read.
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            assert!(
                0 < acknowledged.work(&queue).await,
                "accepted during `{fault}`"
            );
            acknowledged.check(&queue).await;
        }
    }
    // A fault that struck once is gone already.
    let _ = std::fs::remove_file(&switch);
    let mended = async {
        while 0 < acknowledged.work(&queue).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let recovered = tokio::time::timeout(Duration::from_secs(20), mended).await;
    recovered.expect("the node goes on by itself");
    acknowledged.check(&queue).await;
    node.close().await;
    let node = Node::open(&dir).await.expect("sound");
    acknowledged.check(&node.queue).await;
    node.close().await;
    let (tasks, ends) = (acknowledged.tasks.len(), acknowledged.completed.len());
    println!("@ over: {tasks} tasks, {ends} ends, {refused} refused at once");
}

#[test]
fn a_disk_that_refuses_is_reported_and_costs_nothing_acknowledged() {
    if watched_dir().is_some() {
        return;
    }
    let shim = Shim::build();
    for Fault { fault, says } in FAULTS {
        let dir = tempfile::tempdir().expect("temporary directory");
        let switch = shim.path("fault");
        let settings = [
            ("REGROW_DISK_FAULT", switch.as_path()),
            ("REGROW_FAULT", Path::new(fault)),
        ];
        let ran = shim.run("faults::node_on_a_failing_disk", dir.path(), &settings);
        let _ = std::fs::remove_file(&switch);
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(
            ran.status.success() && said.contains("@ over"),
            "`{fault}`:\n{said}\n{}",
            String::from_utf8_lossy(&ran.stderr)
        );
        for words in says {
            assert!(
                said.contains(words),
                "`{fault}`: nobody was told `{words}`:\n{said}"
            );
        }
        let over = said.lines().find(|line| line.contains("@ over"));
        println!("`{fault}`: {}", over.unwrap_or_default());
    }
}

/// What a start says to files that cannot be written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_on_read_only_files() {
    let (Some(dir), Ok(fault)) = (watched_dir(), std::env::var("REGROW_FAULT")) else {
        return;
    };
    Node::open(&dir).await.expect("sound").close().await;
    let switch = std::env::var_os("REGROW_DISK_FAULT").expect("set");
    std::fs::write(&switch, fault).expect("writable");
    let refused = Node::open(&dir)
        .await
        .err()
        .expect("nothing can be written");
    println!("@ refused: {refused}");
    std::fs::remove_file(&switch).expect("there");
    Node::open(&dir).await.expect("as it was").close().await;
    println!("@ over");
}

#[test]
fn read_only_files_are_refused_at_the_start_and_left_as_they_are() {
    if watched_dir().is_some() {
        return;
    }
    let shim = Shim::build();
    let table = [
        ("any any EROFS", &["cannot be", "Read-only file system"][..]),
        ("open db EROFS", &["read-only", "make it writable"]),
    ];
    for (fault, says) in table {
        let dir = tempfile::tempdir().expect("temporary directory");
        let switch = shim.path("fault");
        let settings = [
            ("REGROW_DISK_FAULT", switch.as_path()),
            ("REGROW_FAULT", Path::new(fault)),
        ];
        let ran = shim.run("faults::start_on_read_only_files", dir.path(), &settings);
        let said = String::from_utf8_lossy(&ran.stdout);
        let told = said.lines().find(|line| line.contains("@ refused"));
        let told = told.unwrap_or_default();
        println!("`{fault}`: {told}");
        assert!(
            said.contains("@ over") && says.iter().all(|words| told.contains(words)),
            "`{fault}`:\n{said}\n{}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
}
