// SPDX-License-Identifier: Apache-2.0
// Runs a harness on the files given, where there is no libFuzzer: its `main`.
#include "harness.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    FILE *file = fopen(argv[i], "rb");
    static uint8_t buffer[1 << 20];
    if (!file) return 2;
    size_t size = fread(buffer, 1, sizeof buffer, file);
    fclose(file);
    uint8_t *data = malloc(size ? size : 1);
    memcpy(data, buffer, size);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
  }
  return 0;
}
