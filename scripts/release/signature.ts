/**
 * The signature of a release: ECDSA with SHA-256 over SHA256SUMS, by a key of the curve P-256, as DER.
 *
 * Why this and not Ed25519: install.sh verifies it with what a plain node has, which is `openssl dgst -sha256 -verify`, in OpenSSL
 * 1.1.1 as in 3 (tried: 1.1.1w, 3.0.19). For Ed25519 the openssl program needs `pkeyutl -rawin`, which came with 3.0: Debian 11 and
 * Ubuntu 20.04 have 1.1.1.
 * AWS KMS signs in this form as well (ECC_NIST_P256, ECDSA_SHA_256).
 */
import { createPrivateKey, createPublicKey, type KeyObject, sign } from "node:crypto";

const RIGHT =
  "a private key of the curve P-256 without a passphrase, as `openssl ecparam -name prime256v1 -genkey -noout -out FILE` makes it";

/** Reads a private key. @param pem its text; never part of an error. @param where it is from, for errors. */
export function signingKey(pem: string, where: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch {
    throw new Error(`${where} holds no private key that can be read: give ${RIGHT}`);
  }
  const { namedCurve } = key.asymmetricKeyDetails ?? {};
  if (key.asymmetricKeyType !== "ec" || namedCurve !== "prime256v1") {
    throw new Error(`${where} holds a key of ${namedCurve ?? key.asymmetricKeyType}: give ${RIGHT}`);
  }
  return key;
}

export const signatureOf = (text: string, key: KeyObject): Uint8Array =>
  sign("sha256", Buffer.from(text), { key, dsaEncoding: "der" });

/** The public key as install.sh takes it in `--public-key`: the DER of SubjectPublicKeyInfo (RFC 5480), in base64, in one line. */
export const pinOf = (key: KeyObject): string =>
  createPublicKey(key).export({ type: "spki", format: "der" }).toString("base64");
