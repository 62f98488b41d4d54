//! Keys whose byte order is their order, and which end by themselves: tuples of them compose and cannot collide.

/// A key of a collection. `encode` preserves `Ord`; no encoding is a prefix of another of the same type.
pub trait Key: Ord + Sized {
    /// Appends the bytes of the key.
    fn encode(&self, out: &mut Vec<u8>);
    /// Takes a key off the front of `bytes`; none if they hold no such key.
    fn decode(bytes: &mut &[u8]) -> Option<Self>;
}

/// Takes `n` bytes off the front.
fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = bytes.split_at_checked(n)?;
    *bytes = tail;
    Some(head)
}

macro_rules! unsigned {
    ($($t:ty),*) => {$(
        impl Key for $t {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_be_bytes());
            }
            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                take(bytes, size_of::<$t>()).and_then(|b| b.try_into().ok()).map(<$t>::from_be_bytes)
            }
        }
    )*};
}
unsigned!(u8, u16, u32, u64, u128);

impl Key for () {
    fn encode(&self, _: &mut Vec<u8>) {}
    fn decode(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

impl Key for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        match take(bytes, 1)? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }
}

impl<const N: usize> Key for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        take(bytes, N)?.try_into().ok()
    }
}

/// Bytes of any length: a zero is written as 00 ff, the end as 00 00, so that shorter sorts first.
impl Key for Vec<u8> {
    fn encode(&self, out: &mut Vec<u8>) {
        for b in self {
            out.push(*b);
            if *b == 0 {
                out.push(u8::MAX);
            }
        }
        out.extend_from_slice(&[0, 0]);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut key = Vec::new();
        loop {
            match take(bytes, 1)? {
                [0] => match take(bytes, 1)? {
                    [0] => return Some(key),
                    [u8::MAX] => key.push(0),
                    _ => return None,
                },
                b => key.extend_from_slice(b),
            }
        }
    }
}

impl Key for String {
    fn encode(&self, out: &mut Vec<u8>) {
        for b in self.bytes() {
            out.push(b);
            if b == 0 {
                out.push(u8::MAX);
            }
        }
        out.extend_from_slice(&[0, 0]);
    }
    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        String::from_utf8(Vec::decode(bytes)?).ok()
    }
}

macro_rules! tuple {
    ($($t:ident . $i:tt),*) => {
        impl<$($t: Key),*> Key for ($($t,)*) {
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$i.encode(out);)*
            }
            fn decode(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($t::decode(bytes)?,)*))
            }
        }
    };
}
tuple!(A.0, B.1);
tuple!(A.0, B.1, C.2);
tuple!(A.0, B.1, C.2, D.3);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes<K: Key>(k: &K) -> Vec<u8> {
        let mut out = Vec::new();
        k.encode(&mut out);
        out
    }

    fn check<K: Key + std::fmt::Debug>(a: K, b: K) {
        let (x, y) = (bytes(&a), bytes(&b));
        assert_eq!(a.cmp(&b), x.cmp(&y), "{a:?} {b:?}");
        assert!(a == b || !y.starts_with(&x), "{a:?} is a prefix of {b:?}");
        let mut rest = x.as_slice();
        assert_eq!(K::decode(&mut rest), Some(a));
        assert!(rest.is_empty());
    }

    proptest! {
        #[test]
        fn order_and_round_trip(
            a in any::<(u64, Vec<u8>, String)>(), b in any::<(u64, Vec<u8>, String)>(),
            s in proptest::collection::vec(0u8..3, 0..6), t in proptest::collection::vec(0u8..3, 0..6),
        ) {
            check((s.clone(), a.0), (t.clone(), b.0));
            check((s, a.2.clone()), (t, b.2.clone()));
            check(a, b);
        }

        #[test]
        fn arbitrary_bytes_never_panic(b in any::<Vec<u8>>()) {
            let _ = <(String, u128, [u8; 20])>::decode(&mut b.as_slice());
        }
    }
}
