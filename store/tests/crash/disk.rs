//! What a disk may hold after a power cut, out of a record of what was written and synced.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::chain::Random;
use crate::recorder::Event;

/// What survives of what was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Model {
    /// Everything: as `kill -9`.
    All,
    /// Nothing: contents only if the file was fsynced after, names only if their directory was.
    Synced,
    /// Names, and ranges on which sync_file_range waited.
    Ranges,
    /// Ranges, and any sector or length of the rest, in no order; names or the names of the last fsync.
    Torn,
}

impl Model {
    pub const ALL: [Model; 4] = [Model::All, Model::Synced, Model::Ranges, Model::Torn];
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Resize(u64),
    Extend(u64),
}

#[derive(Default)]
struct File {
    synced: Vec<u8>,
    /// Changes since, and whether sync_file_range covered them.
    pending: Vec<(Change, bool)>,
}

/// Names of a directory with the numbers of their nodes, as they are and as the last fsync had them.
#[derive(Default)]
struct Dir {
    now: BTreeMap<String, usize>,
    synced: BTreeMap<String, usize>,
}

enum Node {
    File(File),
    Dir(Dir),
}

/// The recorded directory, node 0, and everything that was ever below it.
pub struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
}

const SECTOR: u64 = 512;

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, data) => {
            let (at, end) = (*at as usize, *at as usize + data.len());
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[at..end].copy_from_slice(data);
        }
        Change::Resize(len) => bytes.resize(*len as usize, 0),
        Change::Extend(len) => bytes.resize(bytes.len().max(*len as usize), 0),
    }
}

impl Disk {
    /// An empty directory.
    pub fn new(root: &Path) -> Self {
        Disk { root: root.to_owned(), nodes: vec![Node::Dir(Dir::default())] }
    }

    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::None | Event::Ack(_) => {}
            Event::Create(path) => self.add(path, Node::File(File::default())),
            Event::Mkdir(path) => self.add(path, Node::Dir(Dir::default())),
            Event::Write(path, at, data) => self.change(path, Change::Write(*at, data.clone())),
            Event::Resize(path, len) => self.change(path, Change::Resize(*len)),
            Event::Extend(path, len) => self.change(path, Change::Extend(*len)),
            Event::Sync(path) => match self.node(path) {
                Node::File(file) => {
                    for (change, _) in file.pending.drain(..) {
                        apply(&mut file.synced, &change);
                    }
                }
                Node::Dir(dir) => dir.synced = dir.now.clone(),
            },
            Event::SyncRange(path, at, len) => {
                let end = if *len == 0 { u64::MAX } else { at + len };
                for (change, ranged) in &mut self.file(path).pending {
                    if let Change::Write(from, data) = change {
                        *ranged |= *from >= *at && *from + data.len() as u64 <= end;
                    }
                }
            }
            Event::Rename(from, to) => {
                let (dir, name) = self.parent(from);
                let node = dir.now.remove(&name).expect("something to rename");
                let (dir, name) = self.parent(to);
                dir.now.insert(name, node);
            }
            Event::Unlink(path) => {
                let (dir, name) = self.parent(path);
                dir.now.remove(&name);
            }
        }
    }

    fn node(&mut self, path: &str) -> &mut Node {
        let below = Path::new(path).strip_prefix(&self.root).unwrap();
        let number = below.iter().fold(0, |number, name| match &self.nodes[number] {
            Node::Dir(dir) => {
                *dir.now.get(name.to_str().unwrap()).unwrap_or_else(|| panic!("{path}: not recorded"))
            }
            Node::File(_) => panic!("{path}: below a file"),
        });
        &mut self.nodes[number]
    }

    /// The directory of a path, and its name there.
    fn parent(&mut self, path: &str) -> (&mut Dir, String) {
        let (dir, name) = path.rsplit_once('/').unwrap();
        match self.node(dir) {
            Node::Dir(dir) => (dir, name.to_owned()),
            Node::File(_) => panic!("{path}: below a file"),
        }
    }

    fn file(&mut self, path: &str) -> &mut File {
        match self.node(path) {
            Node::File(file) => file,
            Node::Dir(_) => panic!("{path}: a directory"),
        }
    }

    fn add(&mut self, path: &str, node: Node) {
        let number = self.nodes.len();
        self.nodes.push(node);
        let (dir, name) = self.parent(path);
        dir.now.insert(name, number);
    }

    fn change(&mut self, path: &str, change: Change) {
        self.file(path).pending.push((change, false));
    }

    /// Panics unless the record is whole: replayed, it is what the real directory holds.
    pub fn assert_equals_real(&self) {
        let mut dirs = vec![(self.root.clone(), 0)];
        while let Some((path, number)) = dirs.pop() {
            match &self.nodes[number] {
                Node::Dir(dir) => {
                    let real =
                        fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
                    let mut real: Vec<_> = real.collect();
                    real.sort();
                    assert_eq!(real, dir.now.keys().cloned().collect::<Vec<_>>(), "{path:?}");
                    dirs.extend(dir.now.iter().map(|(name, number)| (path.join(name), *number)));
                }
                Node::File(file) => {
                    assert!(
                        Self::content(file, Model::All, &mut Random(0)) == fs::read(&path).unwrap(),
                        "{path:?}"
                    );
                }
            }
        }
    }

    fn content(file: &File, model: Model, random: &mut Random) -> Vec<u8> {
        let mut bytes = file.synced.clone();
        for (change, ranged) in &file.pending {
            match (model, change) {
                (Model::All, _) => apply(&mut bytes, change),
                (Model::Synced, _) => {}
                (Model::Ranges | Model::Torn, _) if *ranged => apply(&mut bytes, change),
                (Model::Ranges, _) => {}
                (Model::Torn, Change::Write(at, data)) => {
                    let mut from = 0;
                    while from < data.len() {
                        let rest = SECTOR - (at + from as u64) % SECTOR;
                        let to = data.len().min(from + rest as usize);
                        if random.below(2) == 0 {
                            apply(&mut bytes, &Change::Write(at + from as u64, data[from..to].to_vec()));
                        }
                        from = to;
                    }
                }
                (Model::Torn, _) => {
                    if random.below(2) == 0 {
                        apply(&mut bytes, change);
                    }
                }
            }
        }
        bytes
    }

    /// Writes what survives a power cut now into the directory `image`, which stands for the recorded one.
    pub fn write_image(&self, image: &Path, model: Model, random: &mut Random) {
        self.write_node(0, image, model, random);
    }

    fn write_node(&self, number: usize, path: &Path, model: Model, random: &mut Random) {
        match &self.nodes[number] {
            Node::File(file) => fs::write(path, Self::content(file, model, random)).unwrap(),
            Node::Dir(dir) => {
                fs::create_dir(path).unwrap();
                let names = match model {
                    Model::All | Model::Ranges => &dir.now,
                    Model::Synced => &dir.synced,
                    Model::Torn if random.below(2) == 0 => &dir.now,
                    Model::Torn => &dir.synced,
                };
                names
                    .iter()
                    .for_each(|(name, number)| self.write_node(*number, &path.join(name), model, random));
            }
        }
    }
}
