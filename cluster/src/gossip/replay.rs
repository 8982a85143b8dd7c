//! Which counters of a sender were seen (pure).
//!
//! The sliding window of RFC 6479: a bit per counter, in blocks that are cleared as the window
//! moves on. A counter is accepted once; what lies behind the window is refused whether it was
//! seen or not.

/// Counters behind the highest one that may still come. A sender of gossip sends some tens of
/// datagrams a second, to all of its peers together.
const WINDOW: u64 = 1024;
const BLOCK_BITS: u64 = 64;
/// One block more than the window, so that the block being filled never holds old bits.
const BLOCKS: usize = (WINDOW / BLOCK_BITS) as usize + 1;

/// Why a counter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It was accepted before.
    Seen,
    /// It lies behind the window.
    Behind,
}

/// The counters that one sender has used.
#[derive(Debug)]
pub(super) struct Window {
    highest: u64,
    blocks: [u64; BLOCKS],
}

impl Window {
    /// A window that has seen `counter` and refuses whatever came before it.
    pub(super) fn opened_at(counter: u64) -> Self {
        let mut blocks = [u64::MAX; BLOCKS];
        // All that come after it in its block: they are still to come.
        blocks[Self::index(counter / BLOCK_BITS)] = u64::MAX >> (63 - counter % BLOCK_BITS);
        Self {
            highest: counter,
            blocks,
        }
    }

    /// Accepts `counter`, once.
    ///
    /// # Errors
    ///
    /// [`Refusal`] when it was accepted before or lies too far back. Nothing is changed then.
    pub(super) fn accept(&mut self, counter: u64) -> Result<(), Refusal> {
        if self.highest < counter {
            let from = self.highest / BLOCK_BITS;
            let to = counter / BLOCK_BITS;
            for block in (from + 1..=to).take(BLOCKS) {
                self.blocks[Self::index(block)] = 0;
            }
            self.highest = counter;
        } else if WINDOW <= self.highest - counter {
            return Err(Refusal::Behind);
        }
        let block = &mut self.blocks[Self::index(counter / BLOCK_BITS)];
        let bit = 1 << (counter % BLOCK_BITS);
        if *block & bit != 0 {
            return Err(Refusal::Seen);
        }
        *block |= bit;
        Ok(())
    }

    fn index(block: u64) -> usize {
        (block % BLOCKS as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What the window has to agree with: all counters ever accepted.
    struct Model {
        opened_at: u64,
        highest: u64,
        accepted: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> Result<(), Refusal> {
            if counter + WINDOW <= self.highest {
                return Err(Refusal::Behind);
            }
            if counter <= self.opened_at || !self.accepted.insert(counter) {
                return Err(Refusal::Seen);
            }
            self.highest = self.highest.max(counter);
            Ok(())
        }
    }

    #[test]
    fn what_came_before_the_window_opened_is_refused() {
        let mut window = Window::opened_at(500);
        assert_eq!(window.accept(500), Err(Refusal::Seen));
        assert_eq!(window.accept(499), Err(Refusal::Seen));
        assert_eq!(window.accept(501), Ok(()));
        assert_eq!(window.accept(u64::MAX), Ok(()));
        assert_eq!(window.accept(u64::MAX), Err(Refusal::Seen));
        assert_eq!(window.accept(502), Err(Refusal::Behind));
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set_of_all_counters(
            opened_at in 0_u64..5_000,
            steps in prop::collection::vec((-1_200_i64..1_300, 1_u32..40), 1..200),
        ) {
            let mut window = Window::opened_at(opened_at);
            let mut model = Model { opened_at, highest: opened_at, accepted: BTreeSet::new() };
            for (jump, run) in steps {
                let from = model.highest.saturating_add_signed(jump);
                for counter in from..from + u64::from(run) {
                    prop_assert_eq!(window.accept(counter), model.accept(counter), "{}", counter);
                }
            }
        }
    }
}
