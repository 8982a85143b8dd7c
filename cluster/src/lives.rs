//! Lives of nodes in a shared database, as a model of its table (pure).
//!
//! Each statement of the model is one transaction there. The table holds no times: a renewal
//! raises a number, and whoever wants to end a life says which number he saw last (see
//! [`Watch`](crate::lease::Watch)). The kernel's own table of lives compares by the
//! database's clock instead (ADR 0005); what both refuse is the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::member::{Incarnation, Member, NodeName};

/// A node's newest life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Which.
    pub incarnation: Incarnation,
    /// How often it was renewed.
    pub renewals: u64,
    /// Ended, by itself or by another: for ever.
    pub ended: bool,
}

/// This life is over, or not known. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this life was ended or replaced by a newer one")]
pub struct LifeOver;

/// The table: a row per name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lives(BTreeMap<NodeName, Life>);

impl Lives {
    /// Opens a life; an earlier one of the same name is over by that. Repeating it is no error.
    ///
    /// # Errors
    ///
    /// [`LifeOver`] if a newer life of this name was opened, or this one was ended.
    pub fn open(&mut self, member: &Member) -> Result<(), LifeOver> {
        match self.0.get(&member.name) {
            Some(life) if member.incarnation < life.incarnation => Err(LifeOver),
            Some(life) if member.incarnation == life.incarnation && life.ended => Err(LifeOver),
            Some(life) if member.incarnation == life.incarnation => Ok(()),
            Some(_) | None => {
                let life = Life {
                    incarnation: member.incarnation,
                    renewals: 0,
                    ended: false,
                };
                self.0.insert(member.name.clone(), life);
                Ok(())
            }
        }
    }

    /// Renews a life.
    ///
    /// # Errors
    ///
    /// [`LifeOver`]: its holder stops at once.
    pub fn renew(&mut self, member: &Member) -> Result<(), LifeOver> {
        let life = self.open_life(member).ok_or(LifeOver)?;
        life.renewals += 1;
        Ok(())
    }

    /// Ends a life, if it was not renewed since `renewals` was read. Returns whether it is
    /// over.
    pub fn end(&mut self, member: &Member, renewals: u64) -> bool {
        match self.open_life(member) {
            Some(life) if life.renewals == renewals => {
                life.ended = true;
                true
            }
            Some(_) => false,
            None => self.is_over(member),
        }
    }

    /// Whether this life may never act again.
    #[must_use]
    pub fn is_over(&self, member: &Member) -> bool {
        self.0.get(&member.name).is_some_and(|life| {
            member.incarnation < life.incarnation
                || (member.incarnation == life.incarnation && life.ended)
        })
    }

    /// Lives that are not over.
    pub fn open_lives(&self) -> impl Iterator<Item = (Member, Life)> + '_ {
        let open = self.0.iter().filter(|(_, life)| !life.ended);
        open.map(|(name, life)| (Member::new(name.clone(), life.incarnation), *life))
    }

    fn open_life(&mut self, member: &Member) -> Option<&mut Life> {
        let life = self.0.get_mut(&member.name)?;
        (life.incarnation == member.incarnation && !life.ended).then_some(life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_that_was_renewed_since_it_was_looked_at_is_not_ended() {
        let mut lives = Lives::default();
        let a = Member::new("a", Incarnation(1));
        assert_eq!(lives.open(&a), Ok(()));
        assert_eq!(lives.renew(&a), Ok(()));
        assert!(!lives.end(&a, 0));
        assert!(lives.end(&a, 1));
        assert_eq!(lives.renew(&a), Err(LifeOver));
        assert_eq!(lives.open(&a), Err(LifeOver));
        assert_eq!(lives.open(&a.next_life()), Ok(()));
        assert!(lives.is_over(&a) && !lives.is_over(&a.next_life()));
    }

    #[test]
    fn a_newer_life_ends_the_older_one_at_once() {
        let mut lives = Lives::default();
        let old = Member::new("a", Incarnation(1));
        lives.open(&old).expect("first");
        lives.open(&old.next_life()).expect("newer");
        assert_eq!(lives.renew(&old), Err(LifeOver));
        assert_eq!(lives.open(&old), Err(LifeOver));
        assert_eq!(lives.open_lives().count(), 1);
    }
}
