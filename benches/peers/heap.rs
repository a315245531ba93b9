//! The data structure that most event loops keep their timers in: a heap that knows where each timer is.

/// A 4-ary heap of deadlines with an index of positions, so that any timer can be moved or taken out.
pub(crate) struct TimerHeap {
    /// Deadline and timer; the children of `i` are `4i + 1` to `4i + 4`.
    nodes: Vec<(u64, u32)>,
    positions: Vec<u32>,
}

impl TimerHeap {
    pub(crate) fn new(capacity: usize) -> TimerHeap {
        TimerHeap { nodes: Vec::with_capacity(capacity), positions: vec![0; capacity] }
    }

    #[inline]
    pub(crate) fn insert(&mut self, timer: u32, deadline: u64) {
        self.nodes.push((deadline, timer));
        self.rise(self.nodes.len() - 1);
    }

    /// Takes the timer with the earliest deadline.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<(u64, u32)> {
        let first = *self.nodes.first()?;
        self.remove(first.1);
        Some(first)
    }

    #[inline]
    pub(crate) fn reset(&mut self, timer: u32, deadline: u64) {
        let position = self.positions[timer as usize] as usize;
        self.nodes[position].0 = deadline;
        self.rise(position);
        self.sink(self.positions[timer as usize] as usize);
    }

    #[inline]
    pub(crate) fn remove(&mut self, timer: u32) {
        let position = self.positions[timer as usize] as usize;
        self.nodes.swap_remove(position);
        if let Some(&(_, moved)) = self.nodes.get(position) {
            self.rise(position);
            self.sink(self.positions[moved as usize] as usize);
        }
    }

    /// Moves the node at `position` up as far as it goes.
    fn rise(&mut self, mut position: usize) {
        let node = self.nodes[position];
        while position > 0 {
            let parent = (position - 1) / 4;
            if self.nodes[parent].0 <= node.0 {
                break;
            }
            self.put(position, self.nodes[parent]);
            position = parent;
        }
        self.put(position, node);
    }

    /// Moves the node at `position` down as far as it goes.
    fn sink(&mut self, mut position: usize) {
        let node = self.nodes[position];
        loop {
            let children = 4 * position + 1..(4 * position + 5).min(self.nodes.len());
            let Some(least) = children.min_by_key(|&child| self.nodes[child].0) else { break };
            if self.nodes[least].0 >= node.0 {
                break;
            }
            self.put(position, self.nodes[least]);
            position = least;
        }
        self.put(position, node);
    }

    fn put(&mut self, position: usize, node: (u64, u32)) {
        self.nodes[position] = node;
        self.positions[node.1 as usize] = position as u32;
    }
}
