/* SPDX-License-Identifier: BSD-3-Clause
 * Where the daemon keeps its state and its control socket unless told otherwise; the CLI looks in the same place. Any
 * thread, at start. Returns text for free(), NULL when memory is exhausted. */
#ifndef LUNETTE_BASE_DIRS_H
#define LUNETTE_BASE_DIRS_H

/* $XDG_STATE_HOME/lunette, ~/.local/state/lunette, or /var/lib/lunette for root. */
char *dirs_state(void);
/* $XDG_RUNTIME_DIR/lunette/control.sock, /run/lunette/control.sock for root, or control.sock in the state directory. */
char *dirs_socket(void);

#endif
