//! Pages of lists that are whole in memory: in order of a key, behind the last one that was seen.
//!
//! Whoever names neither `limit` nor `cursor` gets the whole list, in its own order. A cursor is
//! the key of the last thing of a page, so that what comes and goes meanwhile moves nothing else.

use std::collections::BTreeSet;

use crate::params::Params;

/// Most things in a page.
const PAGE_MAX: u64 = 1_000;

/// What part of a list is asked for.
#[derive(Debug)]
pub(crate) struct Paging {
    cursor: Option<String>,
    limit: Option<usize>,
}

impl Paging {
    /// As the query says.
    pub(crate) fn of(params: &mut Params) -> Self {
        let limit = params.number("limit", 1..=PAGE_MAX);
        Self {
            cursor: params.text("cursor"),
            limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        }
    }

    /// The keys of the page, and where the next one begins; `None` when all is asked for.
    fn keys<'a>(&self, all: impl Iterator<Item = &'a str>) -> Option<(BTreeSet<String>, bool)> {
        if self.cursor.is_none() && self.limit.is_none() {
            return None;
        }
        let limit = self.limit.unwrap_or(PAGE_MAX as usize);
        let behind = |key: &&str| self.cursor.as_deref().is_none_or(|cursor| cursor < *key);
        let keys: BTreeSet<&str> = all.filter(behind).collect();
        let more = limit < keys.len();
        Some((
            keys.into_iter().take(limit).map(str::to_owned).collect(),
            more,
        ))
    }

    /// Leaves the page in `lists`, which share their keys, and says where the next one begins.
    pub(crate) fn cut<T>(
        &self,
        lists: &mut [&mut Vec<T>],
        key: impl Fn(&T) -> &str,
    ) -> Option<String> {
        let all = lists.iter().flat_map(|list| list.iter().map(&key));
        let (keys, more) = self.keys(all)?;
        for list in lists.iter_mut() {
            list.retain(|one| keys.contains(key(one)));
            list.sort_by(|a, b| key(a).cmp(key(b)));
        }
        keys.last().filter(|_| more).cloned()
    }

    /// The same for two lists of different things that share their keys.
    pub(crate) fn cut_both<A, B>(
        &self,
        (one, key): (&mut Vec<A>, impl Fn(&A) -> &str),
        (other, other_key): (&mut Vec<B>, impl Fn(&B) -> &str),
    ) -> Option<String> {
        let all = one.iter().map(&key).chain(other.iter().map(&other_key));
        let (keys, more) = self.keys(all)?;
        one.retain(|it| keys.contains(key(it)));
        one.sort_by(|a, b| key(a).cmp(key(b)));
        other.retain(|it| keys.contains(other_key(it)));
        other.sort_by(|a, b| other_key(a).cmp(other_key(b)));
        keys.last().filter(|_| more).cloned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paging(cursor: Option<String>, limit: Option<usize>) -> Paging {
        Paging { cursor, limit }
    }

    #[test]
    fn without_a_limit_and_a_cursor_the_list_stays_as_it_is() {
        let mut list = vec!["c", "a", "b"];
        let next = paging(None, None).cut(&mut [&mut list], |it| it);
        assert_eq!((next, list), (None, vec!["c", "a", "b"]));
    }

    proptest! {
        #[test]
        fn page_after_page_shows_everything_once(
            one in prop::collection::btree_set("[a-z]{1,3}", 0..30),
            other in prop::collection::btree_set("[a-z]{1,3}", 0..30),
            limit in 1_usize..8,
        ) {
            let (mut seen, mut seen_other, mut cursor) = (Vec::new(), Vec::new(), None);
            loop {
                let mut a: Vec<String> = one.iter().rev().cloned().collect();
                let mut b: Vec<String> = other.iter().cloned().collect();
                let page = paging(cursor.clone(), Some(limit));
                let (mut c, mut d) = (a.clone(), b.clone());
                let next = page.cut(&mut [&mut a, &mut b], |it| it);
                let both = page.cut_both((&mut c, |it: &String| it), (&mut d, |it: &String| it));
                prop_assert_eq!((&next, &a, &b), (&both, &c, &d));
                prop_assert!(a.len() <= limit && b.len() <= limit);
                seen.extend(a);
                seen_other.extend(b);
                match next {
                    Some(next) => {
                        prop_assert!(cursor.is_none_or(|before| before < next), "it goes on");
                        cursor = Some(next);
                    }
                    None => break,
                }
            }
            prop_assert!(seen.iter().eq(one.iter()), "{seen:?}");
            prop_assert!(seen_other.iter().eq(other.iter()), "{seen_other:?}");
        }
    }
}
