// SPDX-License-Identifier: Apache-2.0
// chacha20-poly1305@openssh.com for server.py beside it, so that a flood of packets is as fast as a
// guest can send. Compiled on the host, and loaded in the guest: it needs nothing but memcpy.
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 64
#define TAG 16
#define M44 0xfffffffffffull
#define M42 0x3ffffffffffull
#define QUARTER(a, b, c, d)                                                                  \
  a += b, d = turned(d ^ a, 16), c += d, b = turned(b ^ c, 12), a += b, d = turned(d ^ a, 8), \
      c += d, b = turned(b ^ c, 7)

typedef unsigned __int128 wide;

static uint32_t turned(uint32_t x, int by) { return x << by | x >> (32 - by); }

static uint64_t load(const uint8_t *from) {
  uint64_t value;
  memcpy(&value, from, sizeof value); // x86-64 is little endian, as both algorithms are
  return value;
}

static void big_endian(uint8_t *into, uint32_t value) {
  value = __builtin_bswap32(value);
  memcpy(into, &value, sizeof value);
}

// XOR with the key stream of packet `seq` from block `counter` on.
static void chacha(const uint8_t key[32], uint32_t seq, uint32_t counter, uint8_t *data, size_t n) {
  uint32_t in[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
  memcpy(in + 4, key, 32);
  in[15] = __builtin_bswap32(seq);
  for (in[12] = counter; n > 0; in[12]++) {
    uint32_t x[16];
    uint8_t stream[BLOCK];
    memcpy(x, in, sizeof x);
    for (int round = 0; round < 10; round++) {
      QUARTER(x[0], x[4], x[8], x[12]);
      QUARTER(x[1], x[5], x[9], x[13]);
      QUARTER(x[2], x[6], x[10], x[14]);
      QUARTER(x[3], x[7], x[11], x[15]);
      QUARTER(x[0], x[5], x[10], x[15]);
      QUARTER(x[1], x[6], x[11], x[12]);
      QUARTER(x[2], x[7], x[8], x[13]);
      QUARTER(x[3], x[4], x[9], x[14]);
    }
    for (int i = 0; i < 16; i++) x[i] += in[i];
    memcpy(stream, x, sizeof stream);
    size_t part = n < BLOCK ? n : BLOCK;
    for (size_t i = 0; i < part; i++) data[i] ^= stream[i];
    data += part;
    n -= part;
  }
}

// In limbs of 44, 44 and 42 bits.
static void poly1305(uint8_t tag[TAG], const uint8_t *m, size_t n, const uint8_t key[32]) {
  uint64_t t0 = load(key), t1 = load(key + 8), c;
  uint64_t r0 = t0 & 0xffc0fffffff, r1 = (t0 >> 44 | t1 << 20) & 0xfffffc0ffff;
  uint64_t r2 = t1 >> 24 & 0x00ffffffc0f, s1 = r1 * 20, s2 = r2 * 20, h0 = 0, h1 = 0, h2 = 0;
  while (n > 0) {
    uint8_t block[TAG + 1] = {0};
    size_t part = n < TAG ? n : TAG;
    memcpy(block, m, part);
    block[part] = 1;
    m += part, n -= part;
    t0 = load(block), t1 = load(block + 8);
    h0 += t0 & M44;
    h1 += (t0 >> 44 | t1 << 20) & M44;
    h2 += t1 >> 24 | (uint64_t)block[TAG] << 40;
    wide d0 = (wide)h0 * r0 + (wide)h1 * s2 + (wide)h2 * s1;
    wide d1 = (wide)h0 * r1 + (wide)h1 * r0 + (wide)h2 * s2;
    wide d2 = (wide)h0 * r2 + (wide)h1 * r1 + (wide)h2 * r0;
    h0 = (uint64_t)d0 & M44, d1 += (uint64_t)(d0 >> 44);
    h1 = (uint64_t)d1 & M44, d2 += (uint64_t)(d1 >> 44);
    h2 = (uint64_t)d2 & M42, h0 += (uint64_t)(d2 >> 42) * 5;
    h1 += h0 >> 44, h0 &= M44;
  }
  for (int twice = 0; twice < 2; twice++) {
    h2 += h1 >> 44, h1 &= M44;
    h0 += (h2 >> 42) * 5, h2 &= M42;
    h1 += h0 >> 44, h0 &= M44;
  }
  h2 += h1 >> 44, h1 &= M44;
  uint64_t g0 = h0 + 5, g1 = h1 + (g0 >> 44), g2 = h2 + (g1 >> 44) - (1ull << 42);
  uint64_t larger = (g2 >> 63) - 1; // all ones: the sum is not below the prime
  h0 = (h0 & ~larger) | (g0 & M44 & larger);
  h1 = (h1 & ~larger) | (g1 & M44 & larger);
  h2 = (h2 & ~larger) | (g2 & larger);
  t0 = load(key + 16), t1 = load(key + 24);
  h0 += t0 & M44, c = h0 >> 44, h0 &= M44;
  h1 += ((t0 >> 44 | t1 << 20) & M44) + c, c = h1 >> 44, h1 &= M44;
  h2 += (t1 >> 24 & M42) + c;
  t0 = h0 | h1 << 44, t1 = h1 >> 20 | h2 << 24;
  memcpy(tag, &t0, 8);
  memcpy(tag + 8, &t1, 8);
}

// Write `count` packets with numbers from `seq` on, each with this payload, and return their bytes.
// Where `at` is not negative, the payload has there a number of its own, from `first` on.
size_t seal(const uint8_t key[64], uint32_t seq, const uint8_t *payload, size_t size, long at,
            uint32_t first, uint32_t count, uint8_t *out) {
  size_t padding = 8 - (1 + size) % 8;
  if (padding < 4) padding += 8;
  size_t inner = 1 + size + padding;
  uint8_t *end = out;
  for (uint32_t i = 0; i < count; i++, seq++) {
    uint8_t poly_key[32] = {0};
    big_endian(end, (uint32_t)inner);
    end[4] = (uint8_t)padding;
    memcpy(end + 5, payload, size);
    if (at >= 0) big_endian(end + 5 + at, first + i);
    memset(end + 5 + size, 0, padding);
    chacha(key + 32, seq, 0, end, 4);
    chacha(key, seq, 1, end + 4, inner);
    chacha(key, seq, 0, poly_key, sizeof poly_key);
    poly1305(end + 4 + inner, end, 4 + inner, poly_key);
    end += 4 + inner + TAG;
  }
  return (size_t)(end - out);
}

// The length that the first four bytes of packet `seq` say, without themselves and the tag.
uint32_t length(const uint8_t key[64], uint32_t seq, const uint8_t head[4]) {
  uint8_t plain[4];
  uint32_t value;
  memcpy(plain, head, sizeof plain);
  chacha(key + 32, seq, 0, plain, sizeof plain);
  memcpy(&value, plain, sizeof value);
  return __builtin_bswap32(value);
}

// Decrypt what follows the length. The tag is not looked at: who attacks believes everything.
void unseal(const uint8_t key[64], uint32_t seq, uint8_t *body, size_t size) {
  chacha(key, seq, 1, body, size);
}
