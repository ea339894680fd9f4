//! What rows have to be, said as plainly as it can be: the judge of everything that is faster.

use std::collections::BTreeSet;

use super::{Dot, Key, Op, Vector};

/// What a store holds of a key whose vector names some of these writes: names and values of siblings, and the context.
pub(crate) fn fold<'a>(
    ops: impl IntoIterator<Item = &'a Op>,
    vector: &Vector,
    key: &Key,
) -> (Vec<(Dot, Vec<u8>)>, BTreeSet<Dot>) {
    let seen: Vec<&Op> = ops.into_iter().filter(|op| op.key == *key && vector.contains(&op.dot)).collect();
    let replaced: BTreeSet<Dot> = seen.iter().flat_map(|op| op.replaces.iter().copied()).collect();
    let mut siblings: Vec<(Dot, Vec<u8>)> = Vec::new();
    for op in seen {
        if let Some(value) = &op.value
            && !replaced.contains(&op.dot)
        {
            siblings.push((op.dot, value.to_vec()));
        }
    }
    siblings.sort();
    (siblings, replaced.into_iter().filter(|dot| !vector.contains(dot)).collect())
}
