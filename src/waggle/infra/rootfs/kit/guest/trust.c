// SPDX-License-Identifier: Apache-2.0
// Destinations that the proxy has allowed just now. The next connection there is accepted while the
// proxy judges it, which saves a way to the host and back; should it be refused, it breaks.
#include "reach.h"
#include "waggle.h"

#include <string.h>

#define KEPT_MS 2000
#define PLACES 256

static struct place {
  uint32_t to, port;
  long long until;
} places[PLACES];

static struct place *place_of(const struct call *call) {
  return &places[(call->to * 2654435761u ^ call->to_port * 40503u) >> 7 & (PLACES - 1)];
}

void trust(const struct call *call) {
  *place_of(call) = (struct place){call->to, call->to_port, milliseconds() + KEPT_MS};
}

bool is_trusted(const struct call *call) {
  const struct place *place = place_of(call);
  return place->to == call->to && place->port == call->to_port && milliseconds() < place->until;
}

void distrust(const struct call *call) { place_of(call)->until = 0; }

void trust_nobody(void) { memset(places, 0, sizeof places); }
