/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/dirs.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char *join(const char *dir, const char *tail)
{
	char *out;

	return asprintf(&out, "%s%s", dir, tail) < 0 ? NULL : out;
}

static const char *absolute(const char *name)
{
	const char *v = getenv(name);

	return v && v[0] == '/' ? v : NULL;
}

char *dirs_state(void)
{
	const char *xdg = absolute("XDG_STATE_HOME"), *home = absolute("HOME");

	if (xdg)
		return join(xdg, "/lunette");
	if (geteuid() == 0 || !home)
		return join("/var/lib/lunette", "");
	return join(home, "/.local/state/lunette");
}

char *dirs_socket(void)
{
	const char *xdg = absolute("XDG_RUNTIME_DIR");

	/* Root is asked first: a login shell and a service of the same root differ in XDG_RUNTIME_DIR. */
	if (geteuid() == 0)
		return join("/run/lunette/control.sock", "");
	if (xdg)
		return join(xdg, "/lunette/control.sock");
	char *state = dirs_state();
	char *out = state ? join(state, "/control.sock") : NULL;
	free(state);
	return out;
}
