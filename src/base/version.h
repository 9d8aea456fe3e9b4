/*
 * version.h - the one place that says which version this is.
 *
 * Used by:  `version` and `stats`, HTTP's Server field, --version, the tools.
 * The build gives TT_VERSION from meson's project(); the default serves compilations without it.
 */
#ifndef BASE_VERSION_H
#define BASE_VERSION_H

#ifndef TT_VERSION
#define TT_VERSION "0.1.0"
#endif

#endif
