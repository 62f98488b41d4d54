// Written from worker/src/canon/constants.rs, and compared with it by a test of the worker.
#pragma once
#include "device.cuh"

constexpr u32 BLOCK = 128;
constexpr u32 LOG2E = 0x3fb8aa3b;
constexpr u32 LN2_HI = 0x3f317200;
constexpr u32 LN2_LO = 0x35bfbe8e;
constexpr u32 EXP_MIN = 0xc2ae0000;
constexpr u32 EXP_MAX = 0x42b00000;
constexpr u32 LOG_SPLIT = 0x3f3504f3;
constexpr u32 PHILOX_ROUNDS = 10;
TABLE u32 EXP[7] = {0x3ab60b61, 0x3c088889, 0x3d2aaaab, 0x3e2aaaab, 0x3f000000, 0x3f800000, 0x3f800000};
TABLE u32 LOG[5] = {0x3e638e39, 0x3e924925, 0x3ecccccd, 0x3f2aaaab, 0x40000000};
TABLE u32 PHILOX_M[2] = {0xd2511f53, 0xcd9e8d57};
TABLE u32 PHILOX_W[2] = {0x9e3779b9, 0xbb67ae85};
