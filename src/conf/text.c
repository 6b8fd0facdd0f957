/* SPDX-License-Identifier: BSD-3-Clause */
#include "conf/text.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml.h>

#include "conf/tree.h"

/* --- YAML --------------------------------------------------------------------------------------------- */

struct yaml {
	yaml_parser_t parser;
	yaml_event_t event;
	bool have;
	unsigned nodes;
	struct err *e;
};
enum { YAML_NODES_MAX = 1 << 20 };

static int yaml_fail(struct yaml *y, const char *what)
{
	return err_set(y->e, -EINVAL, "line %zu: %s", y->event.start_mark.line + 1, what);
}

static int yaml_next(struct yaml *y)
{
	if (y->have)
		yaml_event_delete(&y->event);
	y->have = false;
	if (!yaml_parser_parse(&y->parser, &y->event))
		return err_set(y->e, -EINVAL, "line %zu: %s", y->parser.problem_mark.line + 1,
			y->parser.problem ? y->parser.problem : "no YAML");
	y->have = true;
	return 0;
}

static int yaml_value(struct yaml *y, unsigned depth, json_t **ret);

/* A plain empty scalar, ~ and null mean "not said"; all else is text that the schema reads. */
static int yaml_scalar(struct yaml *y, json_t **ret)
{
	const char *text = (const char *)y->event.data.scalar.value;
	size_t len = y->event.data.scalar.length;
	bool plain = y->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;

	if (plain && (len == 0 || strcmp(text, "~") == 0 || strcmp(text, "null") == 0))
		*ret = json_null();
	else
		*ret = json_stringn(text, len);
	return *ret ? 0 : yaml_fail(y, "text is not UTF-8");
}

static int yaml_member(struct yaml *y, unsigned depth, json_t *map)
{
	char key[256];
	json_t *v;

	if (y->event.type != YAML_SCALAR_EVENT)
		return yaml_fail(y, "a key must be a plain text");
	if (y->event.data.scalar.length >= sizeof(key) ||
	    memchr(y->event.data.scalar.value, 0, y->event.data.scalar.length))
		return yaml_fail(y, "a key is too long or contains a zero byte");
	memcpy(key, y->event.data.scalar.value, y->event.data.scalar.length + 1);
	if (json_object_get(map, key))
		return err_set(y->e, -EINVAL, "line %zu: '%.64s' is there twice", y->event.start_mark.line + 1,
			key);
	int r = yaml_next(y);
	if (r == 0)
		r = yaml_value(y, depth, &v);
	if (r < 0)
		return r;
	return json_object_set_new(map, key, v) < 0 ? yaml_fail(y, "a key is not UTF-8") : 0;
}

static int yaml_items(struct yaml *y, unsigned depth, json_t *into, yaml_event_type_t end)
{
	json_t *v;
	int r;

	for (;;) {
		r = yaml_next(y);
		if (r < 0 || y->event.type == end)
			return r;
		if (json_is_object(into)) {
			r = yaml_member(y, depth, into);
		} else {
			r = yaml_value(y, depth, &v);
			if (r == 0)
				json_array_append_new(into, v);
		}
		if (r < 0)
			return r;
	}
}

static int yaml_value(struct yaml *y, unsigned depth, json_t **ret)
{
	bool map = y->event.type == YAML_MAPPING_START_EVENT;

	if (depth >= LIM_CONF_DEPTH)
		return yaml_fail(y, "nested too deeply");
	if (++y->nodes > YAML_NODES_MAX)
		return yaml_fail(y, "too many values");
	if (y->event.type == YAML_SCALAR_EVENT)
		return yaml_scalar(y, ret);
	if (!map && y->event.type != YAML_SEQUENCE_START_EVENT)
		return yaml_fail(y, "anchors and aliases are not used here");
	json_t *into = map ? json_object() : json_array();
	int r = yaml_items(y, depth + 1, into, map ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT);
	if (r < 0) {
		json_decref(into);
		return r;
	}
	*ret = into;
	return 0;
}

static int yaml_expect(struct yaml *y, yaml_event_type_t type, const char *what)
{
	int r = yaml_next(y);

	return r < 0 ? r : y->event.type == type ? 0 : yaml_fail(y, what);
}

static int yaml_document(struct yaml *y, json_t **ret)
{
	json_t *v = NULL;
	int r = yaml_expect(y, YAML_STREAM_START_EVENT, "no YAML");

	if (r == 0)
		r = yaml_expect(y, YAML_DOCUMENT_START_EVENT, "the file is empty");
	if (r == 0)
		r = yaml_next(y);
	if (r == 0)
		r = yaml_value(y, 0, &v);
	if (r == 0)
		r = yaml_expect(y, YAML_DOCUMENT_END_EVENT, "text follows the configuration");
	if (r == 0)
		r = yaml_expect(y, YAML_STREAM_END_EVENT, "there is more than one document");
	if (r < 0) {
		json_decref(v);
		return r;
	}
	*ret = v;
	return 0;
}

static int text_yaml(const char *text, size_t len, json_t **ret, struct err *e)
{
	struct yaml y = { .e = e };

	if (!yaml_parser_initialize(&y.parser))
		return err_set(e, -ENOMEM, "out of memory");
	yaml_parser_set_input_string(&y.parser, (const unsigned char *)text, len);
	int r = yaml_document(&y, ret);
	if (y.have)
		yaml_event_delete(&y.event);
	yaml_parser_delete(&y.parser);
	return r;
}

/* --- JSON --------------------------------------------------------------------------------------------- */

static int text_json(const char *text, size_t len, json_t **ret, struct err *e)
{
	json_error_t je;

	*ret = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
	if (!*ret)
		return err_set(e, -EINVAL, "line %d: %s", je.line, je.text);
	return 0;
}

int conf_text(const char *text, size_t len, json_t **ret, struct err *e)
{
	size_t at = 0;

	if (len > LIM_CONF_BYTES)
		return err_set(e, -EFBIG, "longer than %d bytes", LIM_CONF_BYTES);
	while (at < len && isspace((unsigned char)text[at]))
		at++;
	if (at < len && text[at] == '{')
		return text_json(text, len, ret, e);
	return text_yaml(text, len, ret, e);
}

/* --- files -------------------------------------------------------------------------------------------- */

static int read_all(int fd, size_t max, char **ret, size_t *ret_len, struct err *e)
{
	size_t len = 0, room = 4096;
	char *buf = malloc(room + 1);
	ssize_t n = 1;

	while (buf && n > 0 && len <= max) {
		if (len == room) {
			char *more = realloc(buf, room * 2 + 1);
			if (!more) {
				free(buf);
				return err_set(e, -ENOMEM, "out of memory");
			}
			buf = more;
			room *= 2;
		}
		n = read(fd, buf + len, room - len);
		if (n < 0 && errno == EINTR)
			n = 1;
		else if (n > 0)
			len += (size_t)n;
	}
	if (!buf || n < 0 || len > max) {
		int r = !buf ? -ENOMEM : n < 0 ? -errno : -EFBIG;
		free(buf);
		return err_set(e, r, "%s", strerror(-r));
	}
	buf[len] = 0;
	*ret = buf;
	*ret_len = len;
	return 0;
}

static int read_file(const char *path, size_t max, char **ret, size_t *ret_len, struct err *e)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return err_set(e, -errno, "cannot read %.256s: %s; check the path and its permissions", path,
			strerror(errno));
	int r = read_all(fd, max, ret, ret_len, e);
	close(fd);
	return r;
}

int conf_text_file(const char *path, json_t **ret, struct err *e)
{
	size_t len;
	char *text;
	int r = read_file(path, LIM_CONF_BYTES, &text, &len, e);

	if (r < 0)
		return r;
	r = conf_text(text, len, ret, e);
	explicit_bzero(text, len);
	free(text);
	if (r < 0)
		err_prefix(e, path);
	return r;
}

int conf_first_line(const char *path, char **ret, struct err *e)
{
	size_t len;
	int r = read_file(path, 65536, ret, &len, e);

	if (r < 0)
		return r;
	(*ret)[strcspn(*ret, "\r\n")] = 0;
	return 0;
}

static int secret_resolve(char **secret, const char *user, const char *option, struct err *e)
{
	char *line, at[ERR_PATH_MAX + 32], *s = *secret;

	if (!s || s[0] != '@')
		return 0;
	if (s[1] == '@') {
		memmove(s, s + 1, strlen(s));
		return 0;
	}
	int r = conf_first_line(s + 1, &line, e);
	if (r < 0) {
		snprintf(at, sizeof(at), "users/%.140s/%s", user, option);
		err_prefix(e, at);
		return r;
	}
	explicit_bzero(s, strlen(s));
	free(s);
	*secret = line;
	return 0;
}

int conf_secrets(struct conf *c, struct err *e)
{
	struct conf_user *u = c->users.items;
	int r = 0;

	for (unsigned i = 0; i < c->users.n && r == 0; i++) {
		r = secret_resolve(&u[i].secret, u[i].name, "secret", e);
		if (r == 0)
			r = secret_resolve(&u[i].previous, u[i].name, "previous-secret", e);
	}
	return r;
}
