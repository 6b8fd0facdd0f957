/* SPDX-License-Identifier: BSD-3-Clause
 * Configuration text, YAML or JSON, to a JSON value. Duplicate keys, anchors and more than one document are
 * refused; nesting and size are bounded (base/limits.h). Also secrets that are kept in files. Control thread;
 * conf_text() is a pure function, the rest reads files. */
#ifndef LUNETTE_CONF_TEXT_H
#define LUNETTE_CONF_TEXT_H

#include <jansson.h>

#include "base/err.h"

struct conf;

/* JSON when the first character that is no blank is '{', else YAML. Scalars of YAML become texts; the schema
 * reads them. The error says the line. */
int conf_text(const char *text, size_t len, json_t **ret, struct err *e);
int conf_text_file(const char *path, json_t **ret, struct err *e);
/* The first line of a file, without its end. */
int conf_first_line(const char *path, char **ret, struct err *e);
/* Replaces secrets of the form @FILE by what the file holds; "@@..." stands for "@...". */
int conf_secrets(struct conf *c, struct err *e);

#endif
