//! Values in numbered places, which are used again: none is allocated by itself, and none
//! moves when there are more.

/// Places that are allocated together.
const CHUNK: usize = 64;
/// Free places that are kept allocated although a whole chunk of them is free.
const SPARE: usize = 4 * CHUNK;

/// See the module. A place that was given up is given out again, the last one first.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    chunks: Vec<Chunk<T>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Chunk<T> {
    /// Empty while it is not allocated.
    values: Vec<Option<T>>,
    used: usize,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slots<T> {
    /// Finds a place for `value`, and says which.
    #[inline]
    pub(crate) fn put(&mut self, value: T) -> usize {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let first = self.chunks.len() * CHUNK;
                self.chunks.push(Chunk {
                    values: Vec::new(),
                    used: 0,
                });
                self.free.extend((first + 1..first + CHUNK).rev());
                first
            }
        };
        let chunk = &mut self.chunks[slot / CHUNK];
        if chunk.values.is_empty() {
            chunk.values.resize_with(CHUNK, || None);
        }
        chunk.values[slot % CHUNK] = Some(value);
        chunk.used += 1;
        slot
    }

    pub(crate) fn get(&self, slot: usize) -> Option<&T> {
        let chunk = self.chunks.get(slot / CHUNK)?;
        chunk.values.get(slot % CHUNK)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(slot / CHUNK)?;
        chunk.values.get_mut(slot % CHUNK)?.as_mut()
    }

    /// Gives up the place, and takes what was there.
    pub(crate) fn take(&mut self, slot: usize) -> Option<T> {
        let chunk = self.chunks.get_mut(slot / CHUNK)?;
        let value = chunk.values.get_mut(slot % CHUNK)?.take()?;
        self.give_up(slot);
        Some(value)
    }

    /// Gives up the place, and drops what was there without moving it.
    pub(crate) fn clear(&mut self, slot: usize) {
        let chunk = self.chunks.get_mut(slot / CHUNK);
        let value = chunk.and_then(|chunk| chunk.values.get_mut(slot % CHUNK));
        if let Some(value @ Some(_)) = value {
            *value = None;
            self.give_up(slot);
        }
    }

    /// The place is empty now.
    fn give_up(&mut self, slot: usize) {
        let chunk = &mut self.chunks[slot / CHUNK];
        chunk.used -= 1;
        if chunk.used == 0 && SPARE < self.free.len() {
            chunk.values = Vec::new();
        }
        self.free.push(slot);
    }

    /// Every value, by its place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| &chunk.values).flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_put_is_found_until_it_is_taken(
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..2_000),
        ) {
            let mut slots = Slots::default();
            let mut model: HashMap<usize, usize> = HashMap::new();
            let mut held: Vec<usize> = Vec::new();
            for (value, (puts, which)) in steps.into_iter().enumerate() {
                if puts || held.is_empty() {
                    let slot = slots.put(value);
                    prop_assert_eq!(model.insert(slot, value), None, "given out twice");
                    held.push(slot);
                } else {
                    let slot = held.swap_remove(which.index(held.len()));
                    let value = model.remove(&slot);
                    if value.is_some_and(|value| value % 2 == 0) {
                        slots.clear(slot);
                    } else {
                        prop_assert_eq!(slots.take(slot), value);
                    }
                    prop_assert_eq!(slots.take(slot), None);
                }
            }
            for (slot, value) in &model {
                prop_assert_eq!(slots.get(*slot), Some(value));
            }
            prop_assert_eq!(slots.iter().count(), model.len());
        }
    }

    #[test]
    fn the_room_of_many_is_given_back_when_they_are_gone() {
        let mut slots = Slots::default();
        let held: Vec<usize> = (0..100 * CHUNK).map(|n| slots.put(n)).collect();
        for slot in &held {
            slots.take(*slot);
        }
        let allocated = |slots: &Slots<usize>| {
            let values = slots.chunks.iter().map(|chunk| chunk.values.capacity());
            values.sum::<usize>()
        };
        assert!(allocated(&slots) <= SPARE + CHUNK);
        for n in 0..100 * CHUNK {
            slots.put(n);
        }
        assert_eq!(slots.chunks.len(), 100, "places are used again");
    }
}
