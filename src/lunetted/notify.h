/* SPDX-License-Identifier: BSD-3-Clause
 * Tells the service manager how we are, by the socket it names in NOTIFY_SOCKET (see systemd's sd_notify(3)). */
#ifndef LUNETTE_LUNETTED_NOTIFY_H
#define LUNETTE_LUNETTED_NOTIFY_H

/* state: "READY=1", "RELOADING=1\nMONOTONIC_USEC=...", "STOPPING=1". Does nothing without NOTIFY_SOCKET. */
void notify_state(const char *state);

#endif
