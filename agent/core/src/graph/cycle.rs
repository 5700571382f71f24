//! Cycles, and the order without them. Every walk is iterative: a chain of 100,000 tasks must not
//! exhaust the stack.

use std::collections::VecDeque;

/// Steps that the search for the shortest cycle of one knot may take: a pure cycle of 500,000
/// tasks fits, and a dense knot gives a cycle that is short, if perhaps not the shortest.
const MAX_STEPS: usize = 20_000_000;

/// For each knot of tasks that wait for one another, a shortest cycle in it, beginning with its
/// first task; each task depends on the next and the last one on the first.
pub(crate) fn cycles(edges: &[Vec<u32>]) -> Vec<Vec<u32>> {
    let mut steps = MAX_STEPS;
    let (component, members) = components(edges);
    let mut search = Search {
        edges,
        component: &component,
        came_from: vec![u32::MAX; edges.len()],
        steps: &mut steps,
    };
    let knots = members.into_iter().filter(|knot| knot.len() > 1);
    let mut found: Vec<_> = knots.map(|knot| search.shortest(knot)).collect();
    found.sort();
    found
}

struct Search<'a> {
    edges: &'a [Vec<u32>],
    component: &'a [u32],
    came_from: Vec<u32>,
    steps: &'a mut usize,
}

impl Search<'_> {
    fn shortest(&mut self, mut knot: Vec<u32>) -> Vec<u32> {
        knot.sort_unstable();
        let mut best: Option<Vec<u32>> = None;
        for &start in &knot {
            if best.is_some() && *self.steps == 0 {
                break;
            }
            let most = best.as_ref().map_or(usize::MAX, Vec::len);
            if let Some(cycle) = self.through(start, most) {
                // A cycle that takes in the whole knot with one edge each is the only one.
                let only = cycle.len() == knot.len() && self.is_plain(&knot);
                best = Some(cycle);
                if only {
                    break;
                }
            }
        }
        let mut cycle = best.unwrap_or_default();
        let first = (0..cycle.len()).min_by_key(|i| cycle[*i]).unwrap_or(0);
        cycle.rotate_left(first);
        cycle
    }

    fn is_plain(&self, knot: &[u32]) -> bool {
        knot.iter().all(|&task| self.inside(task).count() == 1)
    }

    fn inside(&self, task: u32) -> impl Iterator<Item = u32> + use<'_> {
        let knot = self.component[task as usize];
        let next = self.edges[task as usize].iter().copied();
        next.filter(move |next| self.component[*next as usize] == knot)
    }

    /// A shortest cycle through `start`, if shorter than `most`.
    fn through(&mut self, start: u32, most: usize) -> Option<Vec<u32>> {
        let mut queue = VecDeque::from([(start, 1)]);
        let mut touched = Vec::new();
        let mut cycle = None;
        'search: while let Some((task, length)) = queue.pop_front() {
            if length >= most {
                break;
            }
            let next: Vec<_> = self.inside(task).collect();
            *self.steps = self.steps.saturating_sub(next.len());
            for next in next {
                if next == start {
                    cycle = Some(self.trace(start, task));
                    break 'search;
                }
                if self.came_from[next as usize] == u32::MAX {
                    self.came_from[next as usize] = task;
                    touched.push(next);
                    queue.push_back((next, length + 1));
                }
            }
        }
        for task in touched {
            self.came_from[task as usize] = u32::MAX;
        }
        cycle
    }

    fn trace(&self, start: u32, last: u32) -> Vec<u32> {
        let mut cycle = vec![last];
        let mut task = last;
        while task != start {
            task = self.came_from[task as usize];
            cycle.push(task);
        }
        cycle.reverse();
        cycle
    }
}

/// Strongly connected components (Tarjan 1972, with a stack of its own): the component of each
/// task, and the tasks of each component. Components come dependencies first.
fn components(edges: &[Vec<u32>]) -> (Vec<u32>, Vec<Vec<u32>>) {
    const UNSEEN: u32 = u32::MAX;
    let count = edges.len();
    let (mut order, mut low) = (vec![UNSEEN; count], vec![UNSEEN; count]);
    let mut component = vec![UNSEEN; count];
    let (mut members, mut open, mut clock) = (Vec::new(), Vec::new(), 0);
    for root in 0..count as u32 {
        if order[root as usize] != UNSEEN {
            continue;
        }
        let mut walk = vec![(root, 0)];
        while let Some((task, next)) = walk.last_mut() {
            let at = *task as usize;
            if *next == 0 {
                (order[at], low[at]) = (clock, clock);
                clock += 1;
                open.push(*task);
            }
            if let Some(&dep) = edges[at].get(*next) {
                *next += 1;
                let dep_at = dep as usize;
                if order[dep_at] == UNSEEN {
                    walk.push((dep, 0));
                } else if component[dep_at] == UNSEEN {
                    low[at] = low[at].min(order[dep_at]);
                }
                continue;
            }
            // A task without edges comes here at once; one with edges has `next` at their end.
            let done = *task;
            walk.pop();
            if let Some((parent, _)) = walk.last() {
                let parent = *parent as usize;
                low[parent] = low[parent].min(low[at]);
            }
            if low[at] == order[at] {
                let mut knot = Vec::new();
                while let Some(task) = open.pop() {
                    component[task as usize] = members.len() as u32;
                    knot.push(task);
                    if task == done {
                        break;
                    }
                }
                members.push(knot);
            }
        }
    }
    (component, members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_cycle_of_each_knot_is_found() {
        // 0 -> 1 -> 2 -> 3 -> 0 with the shortcut 2 -> 1; 4 -> 5 -> 4; 6 alone.
        let edges = [vec![1], vec![2], vec![3, 1], vec![0], vec![5], vec![4], vec![0]];
        assert_eq!(cycles(&edges), [vec![1, 2], vec![4, 5]]);
    }

    #[test]
    fn long_chains_and_long_cycles_do_not_exhaust_the_stack() {
        let count = 200_000u32;
        let mut edges: Vec<_> = (0..count).map(|i| vec![i + 1]).collect();
        edges.push(Vec::new());
        assert!(cycles(&edges).is_empty());
        edges[count as usize].push(0);
        let found = cycles(&edges);
        assert_eq!(found.len(), 1);
        assert!(found[0].iter().copied().eq(0..=count));
    }
}
