//! Writes GGUF.

/// One tensor's record.
#[derive(Clone, Copy, Debug)]
pub struct TensorInfo<'a> {
    pub name: &'a str,
    /// Fastest first.
    pub dimensions: &'a [u64],
    /// `ggml_type`.
    pub kind: u32,
    /// Of its data.
    pub bytes: u64,
}

/// Writes GGUF version 3. It checks nothing, so that tests can write files that are wrong.
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    pub pairs: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

impl GgufWriter {
    /// Of every tensor's data in the file.
    pub const ALIGNMENT: usize = 32;

    fn pair(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.remove(key);
        self.pairs.push((key.to_string(), [&kind.to_le_bytes()[..], value].concat()));
    }

    /// Takes a pair away.
    pub fn remove(&mut self, key: &str) {
        self.pairs.retain(|(k, _)| k != key);
    }

    pub fn u32(&mut self, key: &str, value: u32) {
        self.pair(key, 4, &value.to_le_bytes());
    }

    pub fn f32(&mut self, key: &str, value: f32) {
        self.pair(key, 6, &value.to_le_bytes());
    }

    pub fn bool(&mut self, key: &str, value: bool) {
        self.pair(key, 7, &[value.into()]);
    }

    pub fn string(&mut self, key: &str, value: &str) {
        self.pair(key, 8, &string(value));
    }

    pub fn strings<S: AsRef<str>>(&mut self, key: &str, values: &[S]) {
        let items: Vec<u8> = values.iter().flat_map(|s| string(s.as_ref())).collect();
        self.pair(key, 9, &[&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &items].concat());
    }

    pub fn i32s(&mut self, key: &str, values: &[i32]) {
        let items: Vec<u8> = values.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.pair(key, 9, &[&5u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &items].concat());
    }

    pub fn f32s(&mut self, key: &str, values: &[f32]) {
        let items: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.pair(key, 9, &[&6u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &items].concat());
    }

    /// A tensor, dimensions fastest first.
    pub fn tensor(&mut self, name: &str, dimensions: &[u64], kind: u32, bytes: Vec<u8>) {
        self.tensors.push((name.to_string(), dimensions.to_vec(), kind, bytes));
    }

    /// The whole file.
    pub fn finish(&self) -> Vec<u8> {
        let infos = self.tensors.iter().map(|(name, dimensions, kind, bytes)| TensorInfo {
            name,
            dimensions,
            kind: *kind,
            bytes: bytes.len() as u64,
        });
        let mut out = self.head(&infos.collect::<Vec<_>>());
        for (_, _, _, bytes) in &self.tensors {
            out.extend(bytes);
            out.resize(out.len().next_multiple_of(Self::ALIGNMENT), 0);
        }
        out
    }

    /// The file up to the data of these tensors, which follows in this order, each tensor padded to `ALIGNMENT`.
    pub fn head(&self, tensors: &[TensorInfo<'_>]) -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            out.extend(string(key));
            out.extend(value);
        }
        let mut offset = 0u64;
        for tensor in tensors {
            out.extend(string(tensor.name));
            out.extend((tensor.dimensions.len() as u32).to_le_bytes());
            out.extend(tensor.dimensions.iter().flat_map(|d| d.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += tensor.bytes.next_multiple_of(Self::ALIGNMENT as u64);
        }
        out.resize(out.len().next_multiple_of(Self::ALIGNMENT), 0);
        out
    }
}

fn string(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s.as_bytes()].concat()
}
