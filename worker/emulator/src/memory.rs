use std::collections::BTreeMap;

/// Bytes before and after an allocation that nobody may write.
const ZONE: usize = 512;
const MARK: u8 = 0xa5;

/// Memory of the emulated device: allocations with zones around them that show a write beyond.
#[derive(Debug, Default)]
pub struct Memory {
    /// By the address that the device sees.
    allocations: BTreeMap<u64, Allocation>,
}

/// A copy of a device's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(Vec<Vec<u128>>);

#[derive(Debug)]
struct Allocation {
    /// Aligned as the device's, zones included. Kernels write it by address, hence raw.
    words: *mut [u128],
    bytes: usize,
}

// SAFETY: an allocation is owned, and only its memory hands it out.
unsafe impl Send for Allocation {}

impl Memory {
    /// `bytes` zero bytes, at an address that is a multiple of 16.
    pub fn alloc(&mut self, bytes: usize) -> u64 {
        let mut words = vec![0u128; (bytes + 2 * ZONE).div_ceil(16)].into_boxed_slice();
        let pattern = u128::from_ne_bytes([MARK; 16]);
        words[..ZONE / 16].fill(pattern);
        let address = words[ZONE / 16..].as_mut_ptr() as u64;
        let allocation = Allocation { words: Box::into_raw(words), bytes };
        // SAFETY: the bytes from the end of the allocation to the end of the words, which nobody else has yet.
        unsafe {
            let end = allocation.start().add(bytes);
            std::ptr::write_bytes(end, MARK, allocation.total() - ZONE - bytes);
        }
        self.allocations.insert(address, allocation);
        address
    }

    /// Copies to the device; fails where that is not all in one allocation.
    pub fn write(&mut self, to: u64, bytes: &[u8]) -> Result<(), String> {
        let at = self.at(to, bytes.len())?;
        // SAFETY: in bounds of an allocation, which does not overlap a slice of the caller's.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len()) };
        Ok(())
    }

    /// Copies from the device; fails where that is not all in one allocation.
    pub fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), String> {
        let at = self.at(from, bytes.len())?;
        // SAFETY: in bounds of an allocation, which does not overlap a slice of the caller's.
        unsafe { std::ptr::copy_nonoverlapping(at, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Fails if a kernel wrote beyond an allocation.
    pub fn check(&self) -> Result<(), String> {
        for (address, allocation) in &self.allocations {
            // SAFETY: the whole of the words; no kernel runs while `self` is borrowed.
            let bytes =
                unsafe { std::slice::from_raw_parts(allocation.words.cast::<u8>(), allocation.total()) };
            let (before, rest) = bytes.split_at(ZONE);
            let after = &rest[allocation.bytes..];
            if before.iter().chain(after).any(|byte| *byte != MARK) {
                return Err(format!("write beyond the {} bytes at {address:#x}", allocation.bytes));
            }
        }
        Ok(())
    }

    /// What all allocations hold.
    pub fn snapshot(&self) -> Snapshot {
        // SAFETY: the whole of the words; no kernel runs while `self` is borrowed.
        Snapshot(self.allocations.values().map(|a| unsafe { &*a.words }.to_vec()).collect())
    }

    /// Puts back what a snapshot of the same allocations holds.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        assert_eq!(self.allocations.len(), snapshot.0.len(), "allocations since the snapshot");
        for (allocation, words) in self.allocations.values().zip(&snapshot.0) {
            // SAFETY: the whole of the words; no kernel runs while `self` is borrowed.
            unsafe { &mut *allocation.words }.copy_from_slice(words);
        }
    }

    fn at(&self, address: u64, len: usize) -> Result<*mut u8, String> {
        let (start, allocation) =
            self.allocations.range(..=address).next_back().ok_or("address before all memory")?;
        let offset = (address - start) as usize;
        if offset + len > allocation.bytes {
            return Err(format!("{len} bytes at {offset} of {} are out of bounds", allocation.bytes));
        }
        // SAFETY: in bounds, as checked.
        Ok(unsafe { allocation.start().add(offset) })
    }
}

impl Allocation {
    fn total(&self) -> usize {
        self.words.len() * 16
    }

    fn start(&self) -> *mut u8 {
        self.words.cast::<u8>().wrapping_add(ZONE)
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: it came from a box, once.
        drop(unsafe { Box::from_raw(self.words) });
    }
}
