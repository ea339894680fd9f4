//! What is to happen, in the order of time; at the same time in the order in which it was decided.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::swim::Time;

/// A queue of events.
pub(super) struct Queue<E> {
    order: BinaryHeap<Reverse<(Time, u64, u32)>>,
    events: Vec<Option<E>>,
    free: Vec<u32>,
    next: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { order: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), next: 0 }
    }
}

impl<E> Queue<E> {
    pub(super) fn push(&mut self, at: Time, event: E) {
        // Events stay where they are while their places in the order move.
        let index = match self.free.pop() {
            Some(index) => {
                self.events[index as usize] = Some(event);
                index
            }
            None => {
                self.events.push(Some(event));
                u32::try_from(self.events.len() - 1).expect("memory ends long before")
            }
        };
        self.order.push(Reverse((at, self.next, index)));
        self.next += 1;
    }

    pub(super) fn next_at(&self) -> Option<Time> {
        self.order.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn pop(&mut self) -> Option<(Time, E)> {
        let Reverse((at, _, index)) = self.order.pop()?;
        self.free.push(index);
        Some((at, self.events[index as usize].take().expect("every place in the order has its event")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_decides_and_then_who_came_first() {
        let mut queue = Queue::default();
        for (at, name) in [(3, "c"), (1, "a"), (3, "d"), (2, "b")] {
            queue.push(Time(at), name);
        }
        assert_eq!(queue.next_at(), Some(Time(1)));
        let popped: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, name)| name).collect();
        assert_eq!(popped, ["a", "b", "c", "d"]);
    }
}
