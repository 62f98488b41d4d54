mod checkpoint;
mod encoder;
mod endings;
mod hostile;
mod real;
mod roundtrip;
