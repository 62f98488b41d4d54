mod checkpoint;
mod encoder;
mod hostile;
mod real;
mod roundtrip;
