mod hostile;
mod real;
mod roundtrip;
