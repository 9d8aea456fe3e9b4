/*
 * ttbench_report.c - what ttbench prints at the end (ttbench_report.h).
 */
#include "tools/ttbench_report.h"

#include <stdio.h>
#include <string.h>

typedef unsigned long long ull;

static double per(double amount, double n)
{
    return n > 0 ? amount / n : 0;
}

bool report_is_good(const struct bench_options *opts, const struct load_result *result)
{
    const struct bench_stats *stats = &result->stats;

    return stats->errors == 0 && stats->mismatches == 0 &&
           (stats->misses == 0 || opts->allow_misses);
}

/* ---- for people ---- */

static void text_latency(const char *name, const struct hist *h, double seconds)
{
    if (h->count == 0)
        return;
    printf("%-7s %12llu %12.0f %9.0f %9llu %9llu %9llu %9llu\n", name, (ull)h->count,
           per((double)h->count, seconds), hist_mean(h), (ull)hist_quantile(h, 0.5),
           (ull)hist_quantile(h, 0.99), (ull)hist_quantile(h, 0.999), (ull)h->max);
}

static void text_cpu(const struct load_result *result)
{
    double n = (double)result->completed;

    if (result->has_server_cpu)
        printf("server CPU %.2f us per request (%.0f %% of a core)\n",
               per((double)result->server_cpu_ns * 1e-3, n),
               per((double)result->server_cpu_ns * 1e-7, result->seconds));
    printf("client CPU %.2f us per request (%.0f %% of a core)\n",
           per((double)result->client_cpu_ns * 1e-3, n),
           per((double)result->client_cpu_ns * 1e-7, result->seconds));
}

static void text_setting(const struct bench_options *opts)
{
    printf("%s, ", opts->wire->label);
    if (opts->unix_path != NULL)
        printf("%s", opts->unix_path);
    else
        printf("%s port %s", opts->host, opts->port);
    printf(", connections %u, pipeline %u, threads %u, keys %llu, read %u %%", opts->connections,
           opts->pipeline, opts->threads, (ull)opts->keys.count, opts->read_percent);
    if (opts->rate > 0)
        printf(", rate %.0f/s", opts->rate);
    printf(", seed %llu\n", (ull)opts->seed);
}

static void text_print(const struct bench_options *opts, const struct load_result *result)
{
    const struct bench_stats *stats = &result->stats;

    text_setting(opts);
    if (result->filled > 0)
        printf("filled %llu keys in %.2f s (%.0f per second)\n", (ull)result->filled,
               result->fill_seconds, per((double)result->filled, result->fill_seconds));
    if (!opts->fill_only) {
        struct hist all = stats->reads;

        hist_merge(&all, &stats->writes);
        printf("%.2f s, %.0f requests per second, received %.1f MB/s, sent %.1f MB/s\n",
               result->seconds, per((double)result->completed, result->seconds),
               per((double)stats->bytes_in * 1e-6, result->seconds),
               per((double)stats->bytes_out * 1e-6, result->seconds));
        printf("%-7s %12s %12s %9s %9s %9s %9s %9s\n", "", "requests", "per second", "mean us",
               "p50 us", "p99 us", "p99.9 us", "max us");
        text_latency("reads", &stats->reads, result->seconds);
        text_latency("writes", &stats->writes, result->seconds);
        text_latency("all", &all, result->seconds);
        text_cpu(result);
    }
    if (result->overdue > 0)
        printf("overdue %llu (due, but every connection's window was full to the end)\n",
               (ull)result->overdue);
    printf("errors %llu, mismatches %llu, misses %llu, reconnects %llu\n", (ull)stats->errors,
           (ull)stats->mismatches, (ull)stats->misses, (ull)stats->reconnects);
}

/* ---- JSON ---- */

static void json_latency(const char *name, const struct hist *h)
{
    printf(
        ",\"%s\":{\"count\":%llu,\"mean_us\":%.1f,\"p50_us\":%llu,\"p90_us\":%llu,\"p99_us\":%llu,"
        "\"p999_us\":%llu,\"max_us\":%llu}",
        name, (ull)h->count, hist_mean(h), (ull)hist_quantile(h, 0.5), (ull)hist_quantile(h, 0.9),
        (ull)hist_quantile(h, 0.99), (ull)hist_quantile(h, 0.999), (ull)h->max);
}

static void json_print(const struct bench_options *opts, const struct load_result *result)
{
    const struct bench_stats *stats = &result->stats;
    struct hist all = stats->reads;
    double n = (double)result->completed;

    hist_merge(&all, &stats->writes);
    printf("{\"protocol\":\"%s\",\"connections\":%u,\"pipeline\":%u,\"threads\":%u,"
           "\"keys\":%llu,\"read_percent\":%u,\"rate\":%.2f,\"seed\":%llu",
           opts->wire->name, opts->connections, opts->pipeline, opts->threads,
           (ull)opts->keys.count, opts->read_percent, opts->rate, (ull)opts->seed);
    printf(",\"filled\":%llu,\"fill_seconds\":%.3f,\"seconds\":%.4f,"
           "\"completed\":%llu,\"per_second\":%.1f",
           (ull)result->filled, result->fill_seconds, result->seconds, (ull)result->completed,
           per(n, result->seconds));
    printf(",\"bytes_in\":%llu,\"bytes_out\":%llu", (ull)stats->bytes_in, (ull)stats->bytes_out);
    json_latency("all", &all);
    json_latency("reads", &stats->reads);
    json_latency("writes", &stats->writes);
    if (result->has_server_cpu)
        printf(",\"server_cpu_us\":%.4f,\"server_cpu_share\":%.4f",
               per((double)result->server_cpu_ns * 1e-3, n),
               per((double)result->server_cpu_ns * 1e-9, result->seconds));
    printf(",\"client_cpu_us\":%.4f,\"client_cpu_share\":%.4f",
           per((double)result->client_cpu_ns * 1e-3, n),
           per((double)result->client_cpu_ns * 1e-9, result->seconds));
    printf(",\"overdue\":%llu,\"errors\":%llu,\"mismatches\":%llu,\"misses\":%llu,"
           "\"reconnects\":%llu,\"ok\":%s}\n",
           (ull)result->overdue, (ull)stats->errors, (ull)stats->mismatches, (ull)stats->misses,
           (ull)stats->reconnects, report_is_good(opts, result) ? "true" : "false");
}

void report_print(const struct bench_options *opts, const struct load_result *result)
{
    if (opts->json)
        json_print(opts, result);
    else
        text_print(opts, result);
}
