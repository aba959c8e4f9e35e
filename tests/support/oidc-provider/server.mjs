// A certified OpenID Connect provider for the tests: npm's oidc-provider, with
// its own sign-in pages. Started by tests/support/oidc_provider.rs.
//
//   node server.mjs FOLDER PORT     FOLDER has cert.pem and key.pem; PORT may be 0
//
// Besides OpenID Connect it answers POST /control/rotate (a new signing key; the
// one before stays published) and GET /control/grants (how many of each kind).
import { generateKeyPairSync, randomUUID, webcrypto } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';

// Debian 12 has Node 18, which lacks two things that the provider uses.
globalThis.crypto ??= webcrypto;
URL.parse ??= (url, base) => (URL.canParse(url, base) ? new URL(url, base) : null);
const { Provider } = await import('oidc-provider');

const [folder, port] = process.argv.slice(2);
const RESOURCE = 'urn:ringway';
const grants = {};
const keys = [newKey()];
let issuer;
let handle;

function newKey() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const kid = randomUUID();
  return { ...privateKey.export({ format: 'jwk' }), kid, use: 'sig', alg: 'ES256' };
}

// Accounts are made up as they sign in; how they do is in their names.
function claimsOf(name) {
  const strong = !name.startsWith('weak');
  return {
    preferred_username: name,
    groups: ['staff'],
    amr: strong ? ['pwd', 'otp', 'mfa'] : ['pwd'],
    acr: strong ? 'gold' : 'bronze',
  };
}

function start() {
  const provider = new Provider(issuer, {
    jwks: { keys },
    cookies: { keys: ['only for tests'] },
    clients: [
      {
        client_id: 'ringway-connect',
        application_type: 'native',
        redirect_uris: ['http://127.0.0.1/callback'],
        token_endpoint_auth_method: 'none',
        id_token_signed_response_alg: 'ES256',
        grant_types: [
          'authorization_code',
          'refresh_token',
          'urn:ietf:params:oauth:grant-type:device_code',
        ],
      },
      {
        client_id: 'load',
        client_secret: 'of the load test',
        redirect_uris: [],
        response_types: [],
        grant_types: ['client_credentials'],
        id_token_signed_response_alg: 'ES256',
      },
    ],
    conformIdTokenClaims: false,
    claims: { openid: ['sub'], profile: ['name', 'preferred_username'] },
    findAccount: (_ctx, id) => ({
      accountId: id,
      claims: () => ({ sub: id, name: `${id} of the test`, preferred_username: id }),
    }),
    extraTokenClaims: (_ctx, token) => claimsOf(token.accountId ?? token.clientId),
    issueRefreshToken: (_ctx, client) => client.grantTypeAllowed('refresh_token'),
    rotateRefreshToken: true,
    ttl: {
      AccessToken: 600, ClientCredentials: 600, IdToken: 600, RefreshToken: 3600,
      DeviceCode: 600, Grant: 3600, Interaction: 600, Session: 3600,
    },
    features: {
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => RESOURCE,
        useGrantedResource: () => true,
        getResourceServerInfo: () => ({
          scope: '',
          audience: 'ringway',
          accessTokenTTL: 600,
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  });
  provider.on('grant.success', (ctx) => {
    const kind = ctx.oidc.params.grant_type;
    grants[kind] = (grants[kind] ?? 0) + 1;
  });
  provider.on('server_error', (_ctx, error) => console.error(error));
  handle = provider.callback();
}

const server = createServer(
  { cert: readFileSync(`${folder}/cert.pem`), key: readFileSync(`${folder}/key.pem`) },
  (request, response) => {
    if (request.url === '/control/rotate') {
      keys.unshift(newKey());
      keys.length = 2;
      start();
      response.end('{}');
    } else if (request.url === '/control/grants') {
      response.end(JSON.stringify(grants));
    } else {
      handle(request, response);
    }
  },
);
server.listen(Number(port), '127.0.0.1', () => {
  issuer = `https://localhost:${server.address().port}`;
  start();
  console.log(`listening ${server.address().port}`);
});
