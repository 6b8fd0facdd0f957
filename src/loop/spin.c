/* SPDX-License-Identifier: BSD-3-Clause
 * When to spin. Going to sleep and being woken costs more than a small request, so a loop whose traffic comes
 * faster than max_ns looks again and again for that long before it sleeps. Spins that find nothing end the habit
 * after a few, and short sleeps bring it back; so an idle loop never spins, whatever number of sessions it has. */
#include "loop/internal.h"

enum {
	FRUITLESS_MAX = 3, /* spins without result before the loop goes straight to sleep */
	QUICK_MIN = 2,     /* short sleeps before it spins again */
};

uint64_t spin_budget(const struct spin *s)
{
	return s->fruitless < FRUITLESS_MAX ? s->max_ns : 0;
}

void spin_ended(struct spin *s, bool found)
{
	s->fruitless = found ? 0 : s->fruitless + 1;
	s->quick = 0;
}

void spin_slept(struct spin *s, uint64_t ns, bool found)
{
	if (!found || ns >= s->max_ns) {
		s->quick = 0;
		return;
	}
	if (++s->quick >= QUICK_MIN)
		s->fruitless = 0;
}
