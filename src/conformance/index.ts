/**
 * dmapool/conformance: the contract of memory sources as checks for any test runner.
 *
 *     your source --factory--> conformanceChecks --> { name, run }, ... --> node:test, vitest, Deno.test, a loop
 *
 * `docs/memory-sources.md` shows a conforming source in fifty lines.
 *
 * @module dmapool/conformance
 * @packageDocumentation
 */
export { type ConformanceCheck, conformanceChecks, type SourceFactory } from './checks.ts';
