/**
 * dmapool/conformance: what every memory source must do, as checks that any test runner can run.
 *
 *     your source --factory--> conformanceChecks --> { name, run }, ... --> node:test, vitest, Deno.test, a loop
 *
 * `docs/memory-sources.md` shows a source of fifty lines that passes.
 *
 * @module dmapool/conformance
 * @packageDocumentation
 */
export { type ConformanceCheck, conformanceChecks, type SourceFactory } from './checks.ts';
