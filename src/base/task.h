/* SPDX-License-Identifier: BSD-3-Clause
 * A callback that waits in a loop's queue. Owned by the object it is embedded in; it must not be
 * queued twice at once. run() may free the object or queue the task again. */
#ifndef LUNETTE_BASE_TASK_H
#define LUNETTE_BASE_TASK_H

struct task {
	void (*run)(struct task *t);
	struct task *next;
};

#endif
