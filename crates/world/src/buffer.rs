//! Memory whose start lies on a block boundary, as direct I/O demands.

/// The alignment of buffers, offsets and lengths for direct I/O. 4 KiB suits every disk sold today; a file system that
/// wants more refuses, and the writer falls back to the page cache.
pub const ALIGNMENT: usize = 4096;

/// A growable buffer of fixed capacity whose first byte is aligned to [`ALIGNMENT`].
pub struct AlignedBuf {
    storage: Vec<u8>,
    start: usize,
}

impl AlignedBuf {
    /// An empty buffer that holds up to `capacity` bytes, rounded up to a multiple of [`ALIGNMENT`].
    pub fn with_capacity(capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(ALIGNMENT);
        let mut storage: Vec<u8> = Vec::with_capacity(capacity + ALIGNMENT);
        let start = storage.as_ptr().align_offset(ALIGNMENT);
        assert!(start < ALIGNMENT, "an address can always be aligned by skipping bytes");
        storage.resize(start, 0);
        Self { storage, start }
    }

    /// How many more bytes fit without moving the buffer.
    pub fn room(&self) -> usize {
        self.capacity() - self.len()
    }

    /// How many bytes fit in all.
    pub fn capacity(&self) -> usize {
        (self.storage.capacity() - self.start) / ALIGNMENT * ALIGNMENT
    }

    /// Bytes in use.
    pub fn len(&self) -> usize {
        self.storage.len() - self.start
    }

    /// Whether nothing is in use.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// When they do not fit: growing would move the buffer off its boundary.
    pub fn extend(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.room(), "an aligned buffer does not grow");
        self.storage.extend_from_slice(bytes);
    }

    /// Sets the length, filling with zeros.
    pub fn resize(&mut self, len: usize) {
        assert!(len <= self.capacity(), "an aligned buffer does not grow");
        self.storage.resize(self.start + len, 0);
    }

    /// Forgets the content and keeps the memory.
    pub fn clear(&mut self) {
        self.storage.truncate(self.start);
    }

    /// The bytes in use.
    pub fn as_slice(&self) -> &[u8] {
        &self.storage[self.start..]
    }

    /// The bytes in use, to write into.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..]
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_stays_on_a_boundary_while_the_buffer_fills() {
        let mut buffer = AlignedBuf::with_capacity(3 * ALIGNMENT);
        while buffer.room() > 0 {
            buffer.extend(&[7; 512]);
            assert_eq!(buffer.as_slice().as_ptr().align_offset(ALIGNMENT), 0);
        }
        assert_eq!(buffer.len(), buffer.capacity());
    }
}
