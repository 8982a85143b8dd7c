//! Bins by the room that is left in them.

use regrow_modules::expression::Table;

/// How many bins have how much room. Bins that are full are only counted.
#[derive(Debug, Clone)]
pub struct Levels {
    size: u16,
    /// Number of open bins by their room; none at 0 and at the size of a bin.
    many: Vec<u32>,
    bins: u32,
}

/// A feature of the choice to put an item into one of `many` bins with `left` room.
#[expect(
    clippy::cast_precision_loss,
    reason = "sizes and numbers of bins are small"
)]
pub(super) fn feature(column: usize, item: usize, left: usize, many: u32, size: u16) -> f64 {
    match column {
        0 => item as f64,
        1 => left as f64,
        2 => (left - item) as f64,
        3 => f64::from(many),
        _ => f64::from(size),
    }
}

impl Levels {
    /// No bins yet.
    pub fn new(size: u16) -> Self {
        Self {
            size,
            many: vec![0; usize::from(size) + 1],
            bins: 0,
        }
    }

    /// Bins opened so far.
    pub fn bins(&self) -> u32 {
        self.bins
    }

    /// The rooms that an item may go into, ascending; the last one is a new bin's.
    pub fn rooms_for(&self, item: u16) -> impl Iterator<Item = u16> {
        (item..=self.size).filter(|room| *room == self.size || 0 < self.many[usize::from(*room)])
    }

    /// The room behind a row of the table for `item`.
    ///
    /// # Panics
    ///
    /// When the table has no such row.
    pub fn room_of(&self, item: u16, row: usize) -> u16 {
        self.rooms_for(item).nth(row).expect("a row of the table")
    }

    /// Fills the table of choices for `item`.
    pub fn fill(&self, item: u16, table: &mut Table) {
        let rooms: smallvec::SmallVec<[u16; 128]> = self.rooms_for(item).collect();
        table.refill(rooms.len(), |column, lane| {
            for (cell, room) in lane.iter_mut().zip(&rooms) {
                let left = usize::from(*room);
                // At the size of a bin there are no open ones.
                *cell = feature(column, usize::from(item), left, self.many[left], self.size);
            }
        });
    }

    /// Puts an item into a bin that has `room`; a new one if that is the size of a bin.
    ///
    /// # Panics
    ///
    /// When the item does not fit, or no bin has this room.
    pub fn put(&mut self, item: u16, room: u16) {
        assert!(item <= room, "an item of {item} into room for {room}");
        if room == self.size {
            self.bins += 1;
        } else {
            let many = &mut self.many[usize::from(room)];
            *many = many.checked_sub(1).expect("a bin with this room");
        }
        if item < room {
            self.many[usize::from(room - item)] += 1;
        }
    }
}
