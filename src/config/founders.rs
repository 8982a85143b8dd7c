//! `[cluster] founders` and what belongs to it: nodes that agree on who may act, without a
//! database.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use regrow_cluster::carrier::Settings;
use regrow_cluster::member::NodeName;
use regrow_cluster::node::{AuthorityKind, NodeConfig};
use regrow_cluster::split_brain::Strategy;

use super::reader::Reader;

const MILLISECOND: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// More would talk to each other four times a second.
const FOUNDERS_MAX: usize = 64;
const STRATEGIES: &str = "`keep-majority`, `down-all`, or `static-quorum:N` for N nodes that are \
    more than half of the founders";

/// Among whom the node called `node` agrees, if `cluster.founders` names anybody. `shared`: it
/// has a database; `listens`: others reach it.
pub(super) fn settings(
    reader: &mut Reader,
    node: &str,
    shared: bool,
    listens: bool,
) -> Option<Settings> {
    let founders = reader.list("cluster.founders", "a list of names of nodes", |_| true);
    let mut config = NodeConfig::under(AuthorityKind::Quorum);
    let strategy = reader.text("cluster.split_brain", "keep-majority", STRATEGIES, |text| {
        strategy(text).is_some()
    });
    config.split_brain.strategy = self::strategy(&strategy).unwrap_or_default();
    config.split_brain.stable_after = reader.duration(
        "cluster.stable_after",
        config.split_brain.stable_after,
        100 * MILLISECOND..=HOUR,
    );
    config.split_brain.down_all_when_unstable = reader.switch(
        "cluster.down_all_when_unstable",
        config.split_brain.down_all_when_unstable,
    );
    config.terms.term = reader.duration(
        "cluster.consent_term",
        config.terms.term,
        1_000 * MILLISECOND..=HOUR,
    );
    config.down_removal_margin = reader.duration(
        "cluster.down_removal_margin",
        config.terms.takeover_after(),
        MILLISECOND..=HOUR,
    );
    if founders.is_empty() {
        return None;
    }
    let mut problems = Vec::new();
    let distinct: BTreeSet<NodeName> = founders.iter().map(|name| name.as_str().into()).collect();
    if founders.iter().any(String::is_empty) || distinct.len() < founders.len() {
        problems.push((
            "cluster.founders",
            format!("found {founders:?}, expected names that differ"),
        ));
    }
    if FOUNDERS_MAX < distinct.len() {
        problems.push((
            "cluster.founders",
            format!(
                "found {} names, expected at most {FOUNDERS_MAX}",
                distinct.len()
            ),
        ));
    }
    if !distinct.contains(&NodeName::from(node)) {
        problems.push((
            "cluster.founders",
            format!(
                "found {founders:?}, expected this node's name, `{node}`, among them: founders are \
                 all nodes that may ever act; name it there, or change `node.name`"
            ),
        ));
    }
    if shared {
        let what = "is given beside `store.database_url`: with a database the database decides \
            who may act; leave one of the two out";
        problems.push(("cluster.founders", what.to_owned()));
    }
    if !listens {
        let what = "is given without `cluster.listen`: the others cannot reach this node; set it";
        problems.push(("cluster.founders", what.to_owned()));
    }
    if let Strategy::StaticQuorum { size } = config.split_brain.strategy
        && (distinct.len() < size || 2 * size <= distinct.len())
    {
        problems.push((
            "cluster.split_brain",
            format!(
                "found a quorum of {size} of {} founders, expected more than half and at most all",
                distinct.len()
            ),
        ));
    }
    for problem in config.problems() {
        let key = match problem.split_once(':') {
            Some(("down_removal_margin", _)) => "cluster.down_removal_margin",
            Some(("term", _)) => "cluster.consent_term",
            _ => "cluster.split_brain",
        };
        problems.push((key, format!("found {problem}")));
    }
    let sound = problems.is_empty();
    for (key, what) in problems {
        reader.object(key, what);
    }
    sound.then(|| Settings {
        name: node.into(),
        founders: Arc::new(distinct),
        config,
    })
}

fn strategy(text: &str) -> Option<Strategy> {
    match text {
        "keep-majority" => Some(Strategy::KeepMajority),
        "down-all" => Some(Strategy::DownAll),
        other => {
            let size = other.strip_prefix("static-quorum:")?.parse().ok()?;
            (0 < size).then_some(Strategy::StaticQuorum { size })
        }
    }
}
