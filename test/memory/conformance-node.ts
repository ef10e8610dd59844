/** The conformance checks as tests of node:test. */

import { describe, it } from 'node:test';
import { conformanceChecks, type SourceFactory } from 'dmapool/conformance';

/** Registers a suite with one test for each check. */
export function registerConformance(name: string, factory: SourceFactory): void {
  void describe(`${name}: the contract of every memory source`, () => {
    for (const check of conformanceChecks(factory)) void it(check.name, check.run);
  });
}
