//! When something is due, and what follows at once when others turn out to know more: so that
//! nothing waits for the next tick that need not.

use super::claims::Stage;
use super::message::Command;
use super::{AuthorityKind, Node};
use crate::local_time::LocalTime;

impl Node {
    /// When the next thing is due that only the passing of time brings about: a silence becomes
    /// suspicious, a picture has stood still for long enough, or an agent may be started. To be
    /// told by [`Node::tick`], then or earlier; `None` if nothing is awaited.
    #[must_use]
    pub fn due(&self, now: LocalTime) -> Option<LocalTime> {
        let heard = self.peers.values();
        let heard = heard.filter(|peer| !peer.suspected && peer.life.is_some());
        let silences = heard.map(|peer| {
            peer.arrivals
                .suspect_at(&self.config.detector, self.threshold)
        });
        let starts = self.hosted.values().filter_map(|hosting| {
            if let Stage::Waiting { start_at } = hosting.stage {
                Some(start_at)
            } else {
                None
            }
        });
        let all = silences.chain(starts).chain(self.split_brain.decides_at());
        all.filter(|at| now < *at).min()
    }

    /// Tells everyone what this node knows of the members by now, asks anew for their consent,
    /// and goes on with what the members' agreement was awaited for: answers that were given
    /// before say nothing any more. For a node whose mind has just changed.
    pub(super) fn announce(&mut self, now: LocalTime, out: &mut Vec<Command>) {
        if self.config.authority != AuthorityKind::Quorum {
            return;
        }
        self.round = self.consent.ask(now);
        let (me, round) = (self.me().clone(), self.round);
        self.consented(&me, round);
        self.tick_claims(now, out);
        out.extend(self.tell_all());
    }
}
