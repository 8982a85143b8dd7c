//! What needs another process: its death, its freezing, its next life.

use std::time::Duration;

use bytes::Bytes;
use nix::sys::signal::Signal;
use regrow_cluster::transport::{CallError, Transport};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::nodes::{Node, Process, config};

/// The other process: a node that does as it is told until its input ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peer() {
    let Ok(role) = std::env::var("REGROW_PEER") else {
        return;
    };
    let mut words = role.split_whitespace();
    let name = words.next().expect("a name");
    let life = words.next().and_then(|life| life.parse().ok());
    let node = Node::with(config(name, life.expect("a life"))).await;
    println!("peer: listening {}", node.gateway.address());
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.expect("readable") {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["release", permits] => {
                let permits = permits.parse().expect("a number");
                node.told.0.gate.permits.add_permits(permits);
            }
            ["connect", address] => {
                let address = address.parse().expect("an address");
                match node.gateway.connect(address, None).await {
                    Ok(member) => println!("peer: connected {member}"),
                    Err(error) => println!("peer: not connected {error}"),
                }
            }
            ["stop"] => {
                node.gateway.stop(Duration::from_secs(20)).await;
                println!("peer: stopped");
                return;
            }
            ["casts"] => println!("peer: casts {}", node.told.0.casts.lock().len()),
            _ => println!("peer: does not know {line:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_travel_between_two_processes_both_ways() {
    let here = Node::start("here").await;
    let there = Process::start("there", 1, "").await;
    let met = here.gateway.connect(there.address, None).await;
    assert_eq!(met.expect("connected"), there.member);
    let answer = here.ask(&there.member, "from").await.expect("answered");
    assert_eq!(answer, "here#1", "the callee knows who asks");
    here.gateway
        .cast(&there.member, Bytes::from_static(b"hello"))
        .expect("room");
    let echo = here.ask(&there.member, "echo").await.expect("answered");
    assert_eq!(echo, "echo");
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_progress_is_interrupted_when_its_callee_dies() {
    let here = Node::start("here").await;
    let mut there = Process::start("there", 1, "").await;
    here.gateway.connect(there.address, None).await.expect("connected");
    let asking = here.ask(&there.member, "hold");
    let killing = async {
        here.ask(&there.member, "echo").await.expect("the other has begun");
        there.signal(Signal::SIGKILL);
    };
    let (asked, ()) = tokio::join!(asking, killing);
    let error = asked.expect_err("nobody is left to answer");
    assert!(matches!(error, CallError::Interrupted), "{error}");
    there.kill().await;
    here.stop().await;
}
