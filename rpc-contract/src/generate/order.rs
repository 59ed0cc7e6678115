//! In which order types are declared.

use std::collections::BTreeMap;

use super::model::TypeId;

/// An order of types in which a type comes after those that it needs, and the needs that are not
/// met because types need each other.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) types: Vec<TypeId>,
    /// For each type with such needs, the types that it needs and that do not come before it. A
    /// type that needs itself is one of them.
    pub(super) unmet: BTreeMap<TypeId, Vec<TypeId>>,
}

/// How far the search for the order is with a type.
#[derive(Clone, Copy, PartialEq)]
enum State {
    New,
    OnPath,
    Placed,
}

impl Order {
    /// Orders types by their needs: `needs[n]` are those of the type with the id `n`. The types are
    /// in the order of their ids, except that the needs of each come before it, in the order in
    /// which they are listed.
    pub(super) fn new(mut needs: Vec<Vec<usize>>) -> Self {
        // Needs are popped from the end, and the first one is to be met first.
        needs.iter_mut().for_each(|needs| needs.reverse());
        let mut order = Self {
            types: Vec::new(),
            unmet: BTreeMap::new(),
        };
        let mut states = vec![State::New; needs.len()];
        for first in 0..needs.len() {
            if states[first] == State::Placed {
                continue;
            }
            // A depth-first search: a type is placed once all its needs are. A need that leads back
            // to a type on the path is part of a cycle.
            let mut path = vec![first];
            states[first] = State::OnPath;
            while let Some(&last) = path.last() {
                let Some(next) = needs[last].pop() else {
                    states[last] = State::Placed;
                    order.types.push(TypeId(last));
                    path.pop();
                    continue;
                };
                match states[next] {
                    State::New => {
                        states[next] = State::OnPath;
                        path.push(next);
                    }
                    State::OnPath => order.unmet.entry(TypeId(last)).or_default().push(TypeId(next)),
                    State::Placed => {}
                }
            }
        }
        order
    }

    /// Whether `id` needs `other`, which does not come before it.
    pub(super) fn is_unmet(&self, id: TypeId, other: TypeId) -> bool {
        self.unmet.get(&id).is_some_and(|types| types.contains(&other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(needs: &[&[usize]]) -> (Vec<usize>, Vec<(usize, usize)>) {
        let order = Order::new(needs.iter().map(|needs| needs.to_vec()).collect());
        let unmet = order.unmet.iter();
        let unmet = unmet.flat_map(|(id, others)| others.iter().map(|other| (id.0, other.0)));
        (order.types.iter().map(|id| id.0).collect(), unmet.collect())
    }

    #[test]
    fn types_come_after_those_that_they_need() {
        assert_eq!(order(&[&[], &[], &[]]), (vec![0, 1, 2], vec![]));
        assert_eq!(order(&[&[2], &[0], &[]]), (vec![2, 0, 1], vec![]));
        assert_eq!(order(&[&[1, 2], &[], &[]]), (vec![1, 2, 0], vec![]));
        assert_eq!(order(&[&[2, 1], &[], &[]]), (vec![2, 1, 0], vec![]));
    }

    #[test]
    fn a_cycle_is_cut_once() {
        assert_eq!(order(&[&[0]]), (vec![0], vec![(0, 0)]));
        assert_eq!(
            order(&[&[1], &[2], &[0, 1]]),
            (vec![2, 1, 0], vec![(2, 0), (2, 1)])
        );
        // The first is not part of the cycle.
        assert_eq!(order(&[&[1], &[2], &[1]]), (vec![2, 1, 0], vec![(2, 1)]));
    }

    #[test]
    fn long_chains_are_ordered() {
        let needs = (0..100_000).map(|n| if n == 99_999 { vec![] } else { vec![n + 1] });
        assert_eq!(Order::new(needs.collect()).types[0], TypeId(99_999));
    }
}
