/** The API report in `api/` matches the exports of the entry points. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { apiReports, reportedEntries, reportFile } from '../../scripts/api-report.ts';
import { root } from './packed.ts';

const entries = reportedEntries(readFileSync(join(root, 'package.json'), 'utf8'));

test('the API report is current: if the public surface was meant to change, npm run api', () => {
  const reports = apiReports(root, entries);
  const files = [...reports.keys()].map((name) => reportFile(name).replace('api/', ''));
  assert.deepEqual(readdirSync(join(root, 'api')).sort(), files.sort());
  for (const [specifier, text] of reports) {
    assert.equal(text, readFileSync(join(root, reportFile(specifier)), 'utf8'), `npm run api (${specifier})`);
  }
});
