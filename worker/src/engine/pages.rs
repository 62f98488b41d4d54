//! Which sequence has which pages of a device, and which tokens the pages that nobody uses at the moment still hold.
//!
//! Pages that hold tokens stay in a tree whose edges are the tokens of a page: a path from the root is the beginning
//! of some earlier sequence. A new sequence begins with the longest such path, and what was used longest ago goes
//! first when pages are wanted. Keys and values depend on nothing but the tokens up to their position, so that none of
//! this changes a bit.

use crate::canon::PAGE;

/// A last page that is not full is worth a copy if so many of its positions can be used.
pub const LEAST_COPIED: usize = 16;

/// The pages of a device.
pub struct Pages {
    /// Pages that hold nothing, the next one last.
    free: Vec<u32>,
    /// Numbers from here on were never given.
    fresh: u32,
    total: u32,
    nodes: Vec<Option<Node>>,
    /// Nodes that begin a path.
    roots: Vec<usize>,
    clock: u64,
    found: u64,
    evicted: u64,
}

/// How the pages of an engine are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageUse {
    /// Pages that there are.
    pub total: usize,
    /// Those that no sequence uses: what they hold goes when others want them.
    pub available: usize,
    /// Whole pages that sequences found computed, since the engine began.
    pub found: u64,
    /// Pages that held something and were wanted by others, since the engine began.
    pub evicted: u64,
}

/// A page in the tree.
struct Node {
    parent: Option<usize>,
    children: Vec<usize>,
    /// At most [`PAGE`]; fewer only where there are no children.
    tokens: Box<[u32]>,
    page: u32,
    /// Sequences whose table has the page.
    users: usize,
    used: u64,
}

/// A path in the tree that a sequence uses: [`Pages::release`] gives it back.
#[derive(Debug, Default)]
pub struct Held {
    path: Vec<usize>,
}

impl Held {
    /// Full pages that the sequence shares.
    pub fn len(&self) -> usize {
        self.path.len()
    }
}

/// What of a prompt is there already.
#[derive(Debug, Default)]
pub struct Found {
    pub held: Held,
    /// The pages of `held`, in order.
    pub pages: Vec<u32>,
    /// A page whose first positions go on from there, and how many of them: to be copied.
    pub tail: Option<(u32, usize)>,
}

impl Pages {
    pub fn new(total: usize) -> Self {
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        Self {
            free: Vec::new(),
            fresh: 0,
            total,
            nodes: Vec::new(),
            roots: Vec::new(),
            clock: 0,
            found: 0,
            evicted: 0,
        }
    }

    /// Pages that there are.
    pub fn total(&self) -> usize {
        self.total as usize
    }

    /// A page that holds nothing, or else the one of the tree that was used longest ago by a sequence that is gone.
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            if self.fresh < self.total {
                self.fresh += 1;
                return Some(self.fresh - 1);
            }
            self.evict()
        })
    }

    /// `count` pages, or none.
    pub fn take_all(&mut self, count: usize) -> Option<Vec<u32>> {
        let mut pages = Vec::new();
        while pages.len() < count {
            match self.take() {
                Some(page) => pages.push(page),
                None => {
                    self.give(pages);
                    return None;
                }
            }
        }
        Some(pages)
    }

    /// Gives pages back that are not in the tree.
    pub fn give(&mut self, pages: impl IntoIterator<Item = u32>) {
        self.free.extend(pages);
    }

    /// The longest path of full pages that `tokens` begins with, which the caller then holds, and what goes on from
    /// there.
    pub fn find(&mut self, tokens: &[u32]) -> Found {
        let mut found = Found::default();
        let mut rest = tokens;
        while let Some((page, after)) = rest.split_at_checked(PAGE) {
            let Some(node) = self.child(found.held.path.last().copied(), page) else { break };
            self.hold(node);
            found.held.path.push(node);
            found.pages.push(self.at(node).page);
            self.found += 1;
            rest = after;
        }
        let common = |node: usize| self.at(node).tokens.iter().zip(rest).take_while(|(a, b)| a == b).count();
        let nodes = self.children(found.held.path.last().copied());
        let best = nodes.iter().map(|node| (common(*node), *node)).max();
        if let Some((len, node)) = best.filter(|(len, _)| *len >= LEAST_COPIED) {
            self.touch(node);
            found.tail = Some((self.at(node).page, len));
        }
        found
    }

    /// Puts the page that follows the path into the tree, with the tokens it holds; the path then ends with it. If the
    /// tree has these tokens already, `page` is free again, and the answer is the tree's page, which holds the same.
    pub fn share(&mut self, held: &mut Held, tokens: &[u32], page: u32) -> u32 {
        debug_assert_eq!(tokens.len(), PAGE);
        let parent = held.path.last().copied();
        let node = match self.child(parent, tokens) {
            Some(node) => {
                self.free.push(page);
                node
            }
            None => self.insert(parent, tokens, page),
        };
        self.hold(node);
        held.path.push(node);
        self.at(node).page
    }

    /// Ends a sequence: its path is no longer used, and the page after it, which holds `tokens`, stays in the tree as
    /// long as there is room. Pages of a sequence without a path to share are given back with [`Pages::give`].
    pub fn release(&mut self, held: Held, tail: Option<(&[u32], u32)>) {
        if let Some((tokens, page)) = tail {
            let parent = held.path.last().copied();
            let known = self.children(parent).iter().any(|node| self.at(*node).tokens.starts_with(tokens));
            if tokens.len() < LEAST_COPIED || known {
                self.free.push(page);
            } else {
                self.insert(parent, tokens, page);
            }
        }
        for node in held.path {
            self.at_mut(node).users -= 1;
            self.touch(node);
        }
    }

    /// Pages that could be had without taking any from a sequence.
    pub fn available(&self) -> usize {
        let unused = self.nodes.iter().flatten().filter(|node| node.users == 0).count();
        self.free.len() + (self.total - self.fresh) as usize + unused
    }

    pub fn page_use(&self) -> PageUse {
        let (found, evicted) = (self.found, self.evicted);
        PageUse { total: self.total(), available: self.available(), found, evicted }
    }

    fn at(&self, node: usize) -> &Node {
        self.nodes[node].as_ref().expect("a node that the tree links to")
    }

    fn at_mut(&mut self, node: usize) -> &mut Node {
        self.nodes[node].as_mut().expect("a node that the tree links to")
    }

    fn children(&self, parent: Option<usize>) -> &[usize] {
        parent.map_or(&self.roots, |parent| &self.at(parent).children)
    }

    fn children_mut(&mut self, parent: Option<usize>) -> &mut Vec<usize> {
        match parent {
            Some(parent) => &mut self.at_mut(parent).children,
            None => &mut self.roots,
        }
    }

    fn child(&self, parent: Option<usize>, tokens: &[u32]) -> Option<usize> {
        self.children(parent).iter().copied().find(|node| *self.at(*node).tokens == *tokens)
    }

    fn touch(&mut self, node: usize) {
        self.clock += 1;
        self.at_mut(node).used = self.clock;
    }

    fn hold(&mut self, node: usize) {
        self.at_mut(node).users += 1;
        self.touch(node);
    }

    fn insert(&mut self, parent: Option<usize>, tokens: &[u32], page: u32) -> usize {
        let new = Node { parent, children: Vec::new(), tokens: tokens.into(), page, users: 0, used: 0 };
        let node = match self.nodes.iter().position(Option::is_none) {
            Some(node) => node,
            None => {
                self.nodes.push(None);
                self.nodes.len() - 1
            }
        };
        self.nodes[node] = Some(new);
        self.touch(node);
        self.children_mut(parent).push(node);
        node
    }

    fn evict(&mut self) -> Option<u32> {
        let leaves = self.nodes.iter().enumerate().filter_map(|(i, node)| Some((i, node.as_ref()?)));
        let unused = leaves.filter(|(_, node)| node.users == 0 && node.children.is_empty());
        let (oldest, _) = unused.min_by_key(|(_, node)| node.used)?;
        let Node { parent, page, .. } = self.nodes[oldest].take()?;
        self.children_mut(parent).retain(|child| *child != oldest);
        self.evicted += 1;
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(first: u32) -> Vec<u32> {
        (first..first + PAGE as u32).collect()
    }

    #[test]
    fn what_earlier_sequences_computed_is_found() {
        let mut pages = Pages::new(10);
        let (a, b) = (page_of(0), page_of(1000));
        let mut held = Held::default();
        let taken = pages.take_all(3).unwrap();
        assert_eq!(pages.share(&mut held, &a, taken[0]), taken[0]);
        assert_eq!(pages.share(&mut held, &b, taken[1]), taken[1]);
        pages.release(held, Some((&[7; 40], taken[2])));

        let prompt = [&a[..], &b[..], &[7; 20], &[8; 9]].concat();
        let found = pages.find(&prompt);
        assert_eq!((&found.pages[..], found.tail), (&taken[..2], Some((taken[2], 20))));
        pages.release(found.held, None);

        // another second page, of which the beginning is the same
        let found = pages.find(&[&a[..], &b[..50], &[3; 100]].concat());
        assert_eq!((&found.pages[..], found.tail), (&taken[..1], Some((taken[1], 50))));
        pages.release(found.held, None);
        assert!(pages.find(&[9; 300]).pages.is_empty());
    }

    #[test]
    fn the_same_page_computed_twice_is_kept_once() {
        let mut pages = Pages::new(2);
        let (mut one, mut two) = (Held::default(), Held::default());
        let (first, second) = (pages.take().unwrap(), pages.take().unwrap());
        assert!(pages.take().is_none());
        assert_eq!(pages.share(&mut one, &page_of(0), first), first);
        assert_eq!(pages.share(&mut two, &page_of(0), second), first);
        assert_eq!(pages.take(), Some(second));
        pages.release(one, None);
        assert!(pages.take().is_none(), "the other still uses it");
        pages.release(two, None);
        assert_eq!(pages.take(), Some(first));
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut pages = Pages::new(3);
        for first in [0, 1000, 2000] {
            let mut held = Held::default();
            let page = pages.take().unwrap();
            pages.share(&mut held, &page_of(first), page);
            pages.release(held, None);
        }
        let again = pages.find(&page_of(0));
        pages.release(again.held, None);
        assert_eq!(pages.available(), 3);
        pages.take().unwrap();
        assert!(pages.find(&page_of(1000)).pages.is_empty());
        let found = pages.find(&page_of(0));
        assert_eq!(found.pages.len(), 1);
        // what is in use is never taken
        assert!(pages.take().is_some() && pages.take().is_none());
        assert!(pages.take_all(1).is_none());
        pages.release(found.held, None);
        assert!(pages.take_all(1).is_some());
    }
}
