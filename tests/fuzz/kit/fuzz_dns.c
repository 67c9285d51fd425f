// SPDX-License-Identifier: Apache-2.0
// A message to the guest's name server, and what is answered to it.
#include "harness.h"
#include "dns.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct question question;
  uint32_t address;
  unsigned char *message = malloc(size ? size : 1), *out = malloc(MAX_ANSWER);
  memcpy(message, data, size);
  if (size <= MAX_QUESTION && read_question(message, size, &question)) {
    static const char *const names[] = {NULL, "a.name.test"};
    if (strlen(question.name) > MAX_NAME || question.end > size) abort();
    if (question.is_plain && strpbrk(question.name, " \n/:")) abort();
    address_in(question.name, &address);
    for (int code = NO_ERROR; code <= NOT_ALLOWED; code++)
      for (size_t i = 0; i < 2; i++) {
        const char *name = i && question.is_plain ? question.name : names[i];
        size_t length = write_answer(message, &question, code, 0x7f000001, name, 60, out);
        struct question again;
        if (length < 12 || length > MAX_ANSWER || read_question(out, length, &again)) abort();
      }
  }
  free(message);
  free(out);
  return 0;
}
