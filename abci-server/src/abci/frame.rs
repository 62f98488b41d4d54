//! Frames: an unsigned varint length, then one protobuf message of that many bytes.

use std::io::{self, BufRead, BufReader, Read, Write};

use bytes::Bytes;
use prost::encoding::decode_varint;
use prost::Message;

/// The longest frame, in bytes, that is read or written. A block has at most 100 MiB of transactions; a frame adds the
/// commit and a few bytes a transaction.
pub const MAX_FRAME: usize = 128 << 20;

/// Bytes read ahead and collected before a write. What is read ahead is also what [`Frames::buffered`] can find.
const BUFFER: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("frame length {len} bytes is over the {max} bytes allowed")]
    TooLong { len: u64, max: usize },
    #[error("frame length is not a varint of at most 64 bits")]
    BadLength,
}

/// Reads frames from a stream.
pub struct Frames<R> {
    reader: BufReader<R>,
    max: usize,
}

impl<R: Read> Frames<R> {
    pub fn new(reader: R) -> Self {
        Self::with_max(reader, MAX_FRAME)
    }

    /// As [`Frames::new`], refusing frames longer than `max` bytes.
    pub fn with_max(reader: R, max: usize) -> Self {
        Self { reader: BufReader::with_capacity(BUFFER, reader), max }
    }

    /// Waits for the next frame; `None` where the stream ends between two frames.
    pub fn read(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(len) = self.read_length()? else { return Ok(None) };
        // A frame has memory of its own: a `Bytes` field that the application keeps pins this frame and no other.
        // Zeroed memory is mapped lazily, so a long length that no bytes follow costs nothing.
        let mut frame = vec![0; len];
        self.reader.read_exact(&mut frame)?;
        Ok(Some(frame.into()))
    }

    /// The next frame if all of it has been read ahead. Never waits; leaves bad frames to [`Frames::read`].
    pub fn buffered(&mut self) -> Option<Bytes> {
        let ahead = self.reader.buffer();
        let mut body = ahead;
        let len = usize::try_from(decode_varint(&mut body).ok()?).ok()?;
        if len > self.max {
            return None;
        }
        let frame = Bytes::copy_from_slice(body.get(..len)?);
        let used = ahead.len() - body.len() + len;
        self.reader.consume(used);
        Some(frame)
    }

    /// Whether nothing at all has been read ahead.
    pub fn idle(&self) -> bool {
        self.reader.buffer().is_empty()
    }

    fn read_length(&mut self) -> Result<Option<usize>, FrameError> {
        let mut varint = [0u8; 10];
        for n in 0..varint.len() {
            match self.reader.read_exact(&mut varint[n..=n]) {
                Ok(()) => {}
                Err(e) if n == 0 && e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(e) => return Err(e.into()),
            }
            if varint[n] & 0x80 == 0 {
                let len = decode_varint(&mut &varint[..=n]).map_err(|_| FrameError::BadLength)?;
                return match usize::try_from(len) {
                    Ok(len) if len <= self.max => Ok(Some(len)),
                    _ => Err(FrameError::TooLong { len, max: self.max }),
                };
            }
        }
        Err(FrameError::BadLength)
    }
}

/// Writes messages as frames, collecting them until [`FrameWriter::flush`] or until the buffer is full.
pub struct FrameWriter<W> {
    writer: W,
    pending: Vec<u8>,
}

impl<W: Write> FrameWriter<W> {
    pub fn new(writer: W) -> Self {
        Self { writer, pending: Vec::with_capacity(BUFFER) }
    }

    pub fn inner(&self) -> &W {
        &self.writer
    }

    pub fn write(&mut self, message: &impl Message) -> io::Result<()> {
        message.encode_length_delimited(&mut self.pending).map_err(io::Error::other)?;
        if self.pending.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.write_all(&self.pending)?;
        self.pending.clear();
        self.pending.shrink_to(BUFFER); // the memory of the largest block is not kept
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 1024;

    fn frames(input: &[u8]) -> Frames<&[u8]> {
        Frames::with_max(input, MAX)
    }

    #[test]
    fn refuses_bad_lengths_and_cut_frames() {
        assert!(frames(&[]).read().unwrap().is_none());
        assert!(matches!(frames(&[0x81, 0x08]).read(), Err(FrameError::TooLong { len: 1025, .. })));
        assert!(matches!(frames(&[0xff, 0xff, 0xff, 0xff, 0x0f]).read(), Err(FrameError::TooLong { .. })));
        assert!(matches!(frames(&[0xff; 11]).read(), Err(FrameError::BadLength)));
        let over_64_bits = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(frames(&over_64_bits).read(), Err(FrameError::BadLength)));
        for cut in [&[0x80][..], &[0x05, 0x0a]] {
            let Err(FrameError::Io(e)) = frames(cut).read() else { panic!("{cut:?}") };
            assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn a_long_length_allocates_nothing_that_is_not_sent() {
        let mut claim = Vec::new();
        prost::encoding::encode_varint(MAX_FRAME as u64, &mut claim);
        assert!(matches!(Frames::new(&claim[..]).read(), Err(FrameError::Io(_))));
        claim.clear();
        prost::encoding::encode_varint(MAX_FRAME as u64 + 1, &mut claim);
        assert!(matches!(Frames::new(&claim[..]).read(), Err(FrameError::TooLong { .. })));
    }

    proptest! {
        /// Whatever is written comes back, in order, whether waited for or found in the buffer.
        #[test]
        fn round_trip(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..MAX - 4), 0..20)) {
            let mut wire = Vec::new();
            let mut writer = FrameWriter::new(&mut wire);
            for m in &messages {
                writer.write(m).unwrap(); // prost: a Vec<u8> is a message with one bytes field
            }
            writer.flush().unwrap();
            let mut frames = frames(&wire);
            let mut read = Vec::new();
            while let Some(frame) = frames.read().unwrap() {
                read.push(frame);
                read.extend(std::iter::from_fn(|| frames.buffered()));
            }
            prop_assert!(frames.idle());
            let read: Vec<Vec<u8>> = read.into_iter().map(|f| Message::decode(f).unwrap()).collect();
            prop_assert_eq!(read, messages);
        }
    }
}
